"""What a compiled program moves, read from its text: between devices, and to and from HBM.

The compiler's own analysis counts the body of a loop once; here it counts as often as it runs.
"""

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

WIDTHS = {"pred": 1, "bf16": 2, "f16": 2, "s4": 0.5, "u4": 0.5, "token": 0}  # else from the name
ARRAY = re.compile(r"\b(pred|bf16|token|[a-z]+\d+\w*)\[([\d,]*)\](\{[^}]*\})?")
VMEM = "S(1)"  # how a layout says that an array is in a TPU core's own memory
# Operations that move nothing by themselves, or whose parts are counted instead.
STILL = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "async-start", "async-done", "async-update",
    "opt-barrier",
}  # fmt: skip


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    shape: str
    kind: str  # all-gather, fusion ...
    operands: tuple[str, ...]
    rest: str  # attributes

    def called(self, attribute: str) -> str | None:
        """The computation that an attribute names."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.rest)
        return found and found[1]


@dataclass(frozen=True)
class Traffic:
    """Collective operations of one kind."""

    count: int
    sent: float  # bytes that each device sends, where they go around a ring


LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z\-]*)\((.*)$")
HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
COLLECTIVE = re.compile(
    r"(all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute)(-start)?"
)


class Program:
    """The computations of a compiled program, as `as_text` of JAX gives them."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry, current = "", []
        for line in text.splitlines():
            header = HEADER.match(line)
            if header:
                current = self.computations.setdefault(header[2], [])
                self.entry = header[2] if header[1] else self.entry
            elif found := LINE.match(line):
                current.append(_instruction(*found.groups()))
        devices = [int(n) for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", text)]
        self.devices = math.prod(devices)

    def _walk(self, name: str, times: int = 1) -> Iterator[tuple[Instruction, int, str]]:
        """Instructions, how often each runs, and the computation it is in."""
        for it in self.computations[name]:
            yield it, times, name
            if it.kind == "while":
                yield from self._walk(it.called("body"), times * self._turns(it))
            for inside in self._inside(it):
                yield from self._walk(inside, times)

    def _inside(self, it: Instruction) -> list[str]:
        """What an instruction consists of, reductions' sums and the like left out."""
        if it.kind == "conditional":
            listed = re.search(r"branch_computations=\{([^}]*)\}", it.rest)
            names = re.findall(r"[\w.\-]+", listed[1]) if listed else []
            return names or [it.called("true_computation"), it.called("false_computation")]
        attribute = "to_apply" if it.kind == "call" else "calls"
        found = it.called(attribute)
        return [found] if found else []

    def _turns(self, loop: Instruction) -> int:
        """How often a loop runs, which the compiler says or its condition compares with."""
        said = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest)
        if said:
            return int(said[1])
        limits = {
            int(x.rest.split(")")[0])
            for x in self.computations[loop.called("condition")]
            if x.kind == "constant" and re.match(r"[su]\d+\[\]", x.shape)
        }
        return limits.pop() if len(limits) == 1 else 1

    def traffic(self) -> dict[str, Traffic]:
        """Collective operations by kind, over a run of the program."""
        single = {}
        for it, times, where in self._walk(self.entry):
            if COLLECTIVE.fullmatch(it.kind):
                key = _chain(it) or len(single)
                # Where one runs beside other operations, parts of it may be in their loops too.
                times = min(times, single[key][0]) if key in single else times
                single[key] = times, *self._sent(it, where)
        found = {}
        for times, kind, sent in single.values():
            so_far = found.get(kind, Traffic(0, 0))
            if sent:
                found[kind] = Traffic(so_far.count + times, so_far.sent + times * sent)
        return found

    def _sent(self, it: Instruction, where: str) -> tuple[str, float]:
        """Kind of a collective, and bytes that each device sends for it around a ring."""
        kind, starts = COLLECTIVE.fullmatch(it.kind).groups()
        size, group = _bytes(it.shape), self._group(it)
        # TPUs have a fusion of both in place of a reduce-scatter.
        if kind == "all-reduce" and where.startswith("all-reduce-scatter"):
            return "reduce-scatter", size * (group - 1) / group
        return kind, _around_a_ring(kind, bool(starts), size, group)

    def _group(self, it: Instruction) -> int:
        """How many devices take part in each of a collective's groups."""
        if it.kind.startswith("collective-permute"):
            return 2
        groups = it.rest.split("replica_groups=", 1)[-1]
        if listed := re.match(r"\{\{([\d,]+)\}", groups):
            return listed[1].count(",") + 1
        if counted := re.match(r"\[\d+,(\d+)\]", groups):
            return int(counted[1])
        if named := re.match(r"mesh\[([^\]]*)\].*?\{('[^}]*)\}", groups):
            sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", named[1])}
            axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
            return math.prod(int(part or sizes[name]) for name, part in axes)
        return self.devices

    def hbm(self) -> float:
        """Bytes that go to and from HBM, where every fusion reads and writes its arrays once."""
        fused = {
            it.called("calls") for body in self.computations.values() for it in body
            if it.kind == "fusion"
        }  # fmt: skip
        return sum(
            times * self._moved(it, self._shapes[where])
            for it, times, where in self._walk(self.entry)
            if where not in fused and it.kind not in STILL and not it.kind.endswith("-done")
        )

    @cached_property
    def _shapes(self) -> dict[str, dict[str, str]]:
        """The shapes of instructions by computation and name."""
        return {
            name: {it.name: it.shape for it in body} for name, body in self.computations.items()
        }

    def _moved(self, it: Instruction, shapes: dict[str, str]) -> float:
        inside = self.computations.get(it.called("calls") or "", [])
        windows = self._windows(inside) if it.kind == "fusion" else {}
        read = sum(
            min(_bytes(shapes.get(name, ""), hbm=True), windows.get(i, math.inf))
            for i, name in enumerate(it.operands)
        )
        if it.kind in ("copy-start", "slice-start"):
            return _copied(it.shape)
        if it.kind == "dynamic-slice":
            return 2 * _bytes(it.shape, hbm=True)
        written = _bytes(it.shape, hbm=True)
        updates = [x for x in inside if x.kind == "dynamic-update-slice"]
        if updates:  # in place: the rest of the array stays as it is
            local = {x.name: x.shape for x in inside}
            whole = sum(_bytes(x.shape, hbm=True) for x in updates)
            written += sum(_bytes(local.get(x.operands[1], "")) for x in updates) - whole
        return read + max(written, 0)

    @staticmethod
    def _windows(inside: list[Instruction]) -> dict[int, float]:
        """Bytes that a fusion reads of operands of which it takes or updates only a part."""
        numbers = {x.name: int(x.rest.split(")")[0]) for x in inside if x.kind == "parameter"}
        users: dict[str, list[Instruction]] = {}
        for x in inside:
            for name in x.operands:
                users.setdefault(name, []).append(x)
        found = {}
        for name, number in numbers.items():
            parts = [_part(x, name) for x in users.get(name, [])]
            if parts and None not in parts:
                found[number] = sum(parts)
        return found


def _part(user: Instruction, name: str) -> float | None:
    """Bytes of an operand that one of its users reads, where that is a part of it."""
    if user.kind == "dynamic-slice" and user.operands[0] == name:
        return _bytes(user.shape)
    if user.kind == "dynamic-update-slice" and user.operands[0] == name:
        return 0.0
    return None


def _chain(it: Instruction) -> tuple[str, str] | None:
    """What the parts of a collective have in common that runs beside other operations."""
    numbers = (re.search(rf"{x}=\"?(\d+)", it.rest) for x in ("chain_id", "channel_id"))
    chain, channel = (number and number[1] for number in numbers)
    return (chain, channel) if chain and channel else None


def _copied(shape: str) -> float:
    """Bytes of a copy of all or a part of an array, of whose ends one or both are in HBM."""
    ends = [found[0] for found in itertools.islice(ARRAY.finditer(shape), 2)]
    return min(map(_bytes, ends)) * sum(VMEM not in end for end in ends)


def _instruction(name: str, shape: str, kind: str, rest: str) -> Instruction:
    inner = rest.split("), ")[0] if kind != "constant" else ""
    operands = tuple(re.findall(r"%([\w.\-]+)", inner))
    return Instruction(name, shape, kind, operands, rest)


def _bytes(shape: str, hbm: bool = False) -> float:
    """Bytes of an array or of all arrays of a tuple; of those in HBM if asked."""
    return sum(
        _width(kind) * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims, layout in ARRAY.findall(shape)
        if not (hbm and VMEM in layout)
    )


def _width(kind: str) -> float:
    """Bytes of a number."""
    if kind in WIDTHS:
        return WIDTHS[kind]
    return int(re.search(r"\d+", kind)[0]) / 8


def _around_a_ring(kind: str, starts: bool, size: float, group: int) -> float:
    """Bytes that each device sends around a ring of that many, from the bytes of the result.

    What starts one and does not wait has its operands beside its results.
    """
    if kind == "all-gather":
        result = size * group / (group + 1) if starts else size
        return result * (group - 1) / group
    if kind == "all-reduce":
        return 2 * size * (group - 1) / group
    if kind == "reduce-scatter":
        return (size / (group + 1) if starts else size) * (group - 1)
    if kind == "collective-permute":
        return size / 2 if starts else size
    return (size / 2 if starts else size) * (group - 1) / group
