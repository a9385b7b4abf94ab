import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { keepUp, type Sink } from "./stream";

beforeEach(() => { vi.useFakeTimers(); });
afterEach(() => { vi.useRealTimers(); });

function watched() {
  const sinks: Sink[] = [];
  const [stop, next, missed, down] = [vi.fn(), vi.fn(), vi.fn(), vi.fn()];
  const begin = (sink: Sink) => {
    sinks.push(sink);
    return stop;
  };
  const end = keepUp({ begin, next, missed, down });
  const latest = () => sinks.at(-1) as Sink;
  return { sinks, latest, stop, next, missed, down, end };
}

const error = (code: string, retryAfter?: number) => [{ message: "", extensions: { code, retryAfter } }];

test("a stream that ends with UNAVAILABLE begins again when the API says, and what was missed is read", () => {
  const { sinks, latest, missed, down } = watched();
  latest().error(error("UNAVAILABLE", 7));
  expect(down).toHaveBeenLastCalledWith(true);
  vi.advanceTimersByTime(6_999);
  expect(sinks).toHaveLength(1);
  vi.advanceTimersByTime(2_000);
  expect(sinks).toHaveLength(2);
  expect(down).toHaveBeenLastCalledWith(false);
  expect(missed).toHaveBeenCalledTimes(1);
});

test("the pauses grow, and begin short again after a stream that lasted", () => {
  const { sinks, latest } = watched();
  latest().error(error("UNAVAILABLE", 2));
  vi.advanceTimersByTime(3_000);
  latest().error(error("UNAVAILABLE", 2));
  vi.advanceTimersByTime(3_000);
  expect(sinks).toHaveLength(2);
  vi.advanceTimersByTime(2_500);
  expect(sinks).toHaveLength(3);
  vi.advanceTimersByTime(61_000);
  latest().error(new CloseEventLike());
  vi.advanceTimersByTime(3_000);
  expect(sinks).toHaveLength(4);
});

test("one that is completed is asked about at once: what it told of may be gone", () => {
  const { sinks, latest, missed } = watched();
  latest().complete();
  expect(missed).toHaveBeenCalledTimes(1);
  vi.advanceTimersByTime(3_000);
  expect(sinks).toHaveLength(2);
});

test("errors instead of an event end the stream, too", () => {
  const { sinks, latest, next, stop } = watched();
  latest().next({ data: { at: 1 } });
  latest().next({ data: null, errors: error("UNAVAILABLE", 2) });
  latest().complete();
  expect(stop).toHaveBeenCalledTimes(1);
  expect(next).toHaveBeenCalledTimes(1);
  vi.advanceTimersByTime(3_000);
  expect(sinks).toHaveLength(2);
});

test("who is no longer signed in is told, and nothing is tried again", () => {
  const { sinks, latest, next } = watched();
  latest().error(error("UNAUTHENTICATED"));
  expect(next).toHaveBeenCalledWith({ errors: error("UNAUTHENTICATED") });
  vi.advanceTimersByTime(120_000);
  expect(sinks).toHaveLength(1);
});

test("one that was ended stays so", () => {
  const { sinks, latest, stop, missed, end } = watched();
  end();
  latest().complete();
  vi.advanceTimersByTime(120_000);
  expect(stop).toHaveBeenCalledTimes(1);
  expect(missed).not.toHaveBeenCalled();
  expect(sinks).toHaveLength(1);
});

class CloseEventLike {
  code = 4500;
}
