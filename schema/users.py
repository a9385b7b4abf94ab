"""Users as others see them, and the directory mutation that keeps them."""

import strawberry

from app.billing import directory
from app.billing.enums import UserKind
from schema.context import Info
from schema.errors import UserError, mutation, user_errors
from schema.inputs import given


@strawberry.type(description="A person or a service of the platform.")
class User:
    id: strawberry.ID = strawberry.field(description="The platform's own id, the `sub` of tokens.")
    email: str | None = strawberry.field(
        description="E-mail address; null where there is none, and for those who are neither that user, an admin of a mandate they share, a service nor a sysadmin."
    )
    first_name: str | None = strawberry.field(description="Given name.")
    last_name: str | None = strawberry.field(description="Family name.")
    kind: UserKind = strawberry.field(description="Whether a person or a program.")

    @strawberry.field(
        description="First and last name, else the e-mail address if the viewer may see it, else the id."
    )
    def display_name(self) -> str:
        names = [name for name in (self.first_name, self.last_name) if name]
        return " ".join(names) or self.email or self.id


@strawberry.input(description="A user to create or change. What is left out stays as it is.")
class UpsertUserInput:
    id: strawberry.ID = strawberry.field(
        description="The platform's id: 1 to 128 printable characters. Creates the user where it is new."
    )
    email: str | None = strawberry.field(
        description="E-mail address; null clears it.", default=strawberry.UNSET
    )
    first_name: str | None = strawberry.field(
        description="Given name; null clears it.", default=strawberry.UNSET
    )
    last_name: str | None = strawberry.field(
        description="Family name; null clears it.", default=strawberry.UNSET
    )
    kind: UserKind | None = strawberry.field(
        description="HUMAN when a new user leaves it out.", default=strawberry.UNSET
    )
    is_sys_admin: bool | None = strawberry.field(
        description="Whether the user administers every mandate; false when a new user leaves it out.",
        default=strawberry.UNSET,
    )
    enabled: bool | None = strawberry.field(
        description="A disabled user is refused with UNAUTHENTICATED; true when a new user leaves it out.",
        default=strawberry.UNSET,
    )


@strawberry.type(description="The user as it is now.")
class UpsertUserPayload:
    user: User | None = strawberry.field(description="Null when refused.", default=None)
    user_errors: list[UserError] = user_errors()


@strawberry.type
class UserMutation:
    @mutation("Sysadmin. Creates a user or changes what is given.")
    async def upsert_user(self, info: Info, input: UpsertUserInput) -> UpsertUserPayload:
        context = info.context
        changes = given(input, "id")
        user_id = await directory.upsert_user(context.database, context.viewer, input.id, changes)
        return UpsertUserPayload(user=await context.load.user.load(user_id))
