"""Ids made of others."""

from schema.ids import joined_id


def test_joined_ids_of_different_pairs_differ() -> None:
    pairs = [("a", "b/c"), ("a/b", "c"), ("a%2Fb", "c"), ("a", "b", "c"), ("a%2Fb/c",)]
    assert len({joined_id(*pair) for pair in pairs}) == len(pairs)
    assert joined_id("acme", "alice@acme.example") == "acme/alice@acme.example"
