"""What a compiled program moves between devices, and to and from HBM, read from its text.

The compiler's own cost analysis counts the body of a loop once; here it counts as often as it runs.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

# Bytes of a number whose type does not say its width in bits.
WIDTHS = {"pred": 1, "bf16": 2, "f16": 2, "s4": 0.5, "u4": 0.5, "token": 0}
ARRAY = re.compile(r"\b(pred|bf16|token|[a-z]+\d+\w*)\[([\d,]*)\](\{[^}]*\})?")
VMEM = "S(1)"  # in a layout: the array is in a TPU core's own memory
# Operations that move nothing by themselves, or whose parts are counted instead.
MOVES_NOTHING = {
    "after-all",
    "async-done",
    "async-start",
    "async-update",
    "bitcast",
    "call",
    "conditional",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
    "while",
}
MEGASCALE = "_xla_megascale_transfer_type"  # in a transfer between slices, through their hosts
LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z\-]*)\((.*)$")
HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
COLLECTIVE = re.compile(
    r"(all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute)(-start)?"
)


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    shape: str
    kind: str  # all-gather, fusion ...
    operands: tuple[str, ...]
    rest: str  # operands and attributes as text

    def called(self, attribute: str) -> str | None:
        """The computation that an attribute names."""
        match = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.rest)
        return match[1] if match else None

    @property
    def number(self) -> int:
        """The value of a constant, or the position of a parameter."""
        return int(self.rest.split(")")[0])


@dataclass(frozen=True)
class Traffic:
    """Collective operations of one kind."""

    count: int
    sent: float  # bytes that each device sends, if they go around a ring


@dataclass
class Collective:
    """One collective operation of a program."""

    times: int  # how often it runs
    kind: str
    sent: float  # bytes that each device sends each time


class Program:
    """The computations of a compiled program, as JAX's `compiled.as_text()` gives them."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        instructions: list[Instruction] = []
        for line in text.splitlines():
            header = HEADER.match(line)
            if header:
                instructions = self.computations.setdefault(header[2], [])
                if header[1]:
                    self.entry = header[2]
                continue
            match = LINE.match(line)
            if match:
                instructions.append(parse_instruction(*match.groups()))
        counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", text)
        self.devices = math.prod(int(count) for count in counts)

    def traffic(self) -> dict[str, Traffic]:
        """Collective operations by kind, over one run of the program."""
        collectives: dict[object, Collective] = {}
        for instruction, times, computation in self._walk(self.entry):
            if not COLLECTIVE.fullmatch(instruction.kind):
                continue
            key = chain_of(instruction) or len(collectives)  # otherwise one that no other has
            if key in collectives:
                # Parts of one that runs beside other operations may stand in their loops too.
                times = min(times, collectives[key].times)
            kind, sent = self._sent(instruction, computation)
            collectives[key] = Collective(times, kind, sent)
        traffic: dict[str, Traffic] = {}
        for collective in collectives.values():
            if collective.sent:
                total = traffic.get(collective.kind, Traffic(0, 0))
                traffic[collective.kind] = Traffic(
                    total.count + collective.times,
                    total.sent + collective.times * collective.sent,
                )
        return traffic

    def between_slices(self) -> Traffic:
        """What each device sends through the network between TPU slices, over one run."""
        count = 0
        sent = 0.0
        for instruction, times, _ in self._walk(self.entry):
            if instruction.kind == "send" and MEGASCALE in instruction.rest:
                count += times
                sent += times * bytes_of(ARRAY.search(instruction.shape)[0])
        return Traffic(count, sent)

    def hbm(self) -> float:
        """Bytes that go to and from HBM, if every fusion reads and writes its arrays once."""
        fused = set()
        for instructions in self.computations.values():
            fused |= {x.called("calls") for x in instructions if x.kind == "fusion"}
        total = 0.0
        for instruction, times, computation in self._walk(self.entry):
            counted = instruction.kind not in MOVES_NOTHING
            if counted and computation not in fused and not instruction.kind.endswith("-done"):
                total += times * self._moved(instruction, self._shapes[computation])
        return total

    def _walk(self, computation: str, times: int = 1) -> Iterator[tuple[Instruction, int, str]]:
        """All instructions, how often each runs, and the computation it is in."""
        for instruction in self.computations[computation]:
            yield instruction, times, computation
            if instruction.kind == "while":
                turns = self._turns(instruction)
                yield from self._walk(instruction.called("body"), times * turns)
            for inner in self._inner_computations(instruction):
                yield from self._walk(inner, times)

    def _inner_computations(self, instruction: Instruction) -> list[str]:
        """The computations that an instruction runs; the sums of reductions are left out."""
        if instruction.kind == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
            if branches:
                return re.findall(r"[\w.\-]+", branches[1])
            names = ("true_computation", "false_computation")
            return [instruction.called(name) for name in names]
        name = instruction.called("to_apply" if instruction.kind == "call" else "calls")
        return [name] if name else []

    def _turns(self, loop: Instruction) -> int:
        """How often a loop runs: as the compiler says, or as its condition compares with."""
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest)
        if known:
            return int(known[1])
        limits = set()
        for instruction in self.computations[loop.called("condition")]:
            if instruction.kind == "constant" and re.match(r"[su]\d+\[\]", instruction.shape):
                limits.add(instruction.number)
        return limits.pop() if len(limits) == 1 else 1

    def _sent(self, instruction: Instruction, computation: str) -> tuple[str, float]:
        """The kind of a collective, and the bytes that each device sends around a ring."""
        kind, start = COLLECTIVE.fullmatch(instruction.kind).groups()
        size = bytes_of(instruction.shape)
        group = self._group_size(instruction)
        # TPUs fuse an all-reduce and a slice in place of a reduce-scatter.
        if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
            return "reduce-scatter", size * (group - 1) / group
        return kind, sent_around_ring(kind, start is not None, size, group)

    def _group_size(self, instruction: Instruction) -> int:
        """How many devices take part in each group of a collective."""
        if instruction.kind.startswith("collective-permute"):
            return 2
        groups = instruction.rest.split("replica_groups=", 1)[-1]
        listed = re.match(r"\{\{([\d,]+)\}", groups)
        if listed:
            return listed[1].count(",") + 1
        counted = re.match(r"\[\d+,(\d+)\]", groups)
        if counted:
            return int(counted[1])
        named = re.match(r"mesh\[([^\]]*)\].*?\{('[^}]*)\}", groups)
        if named:
            sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
            axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
            return math.prod(int(part or sizes[name]) for name, part in axes)
        return self.devices

    @cached_property
    def _shapes(self) -> dict[str, dict[str, str]]:
        """The shapes of instructions, by computation and name."""
        shapes = {}
        for computation, instructions in self.computations.items():
            shapes[computation] = {x.name: x.shape for x in instructions}
        return shapes

    def _moved(self, instruction: Instruction, shapes: dict[str, str]) -> float:
        """Bytes that one instruction reads from HBM and writes to it."""
        if instruction.kind in ("copy-start", "slice-start"):
            return copied_bytes(instruction.shape)
        written = bytes_of(instruction.shape, hbm_only=True)
        if instruction.kind == "dynamic-slice":
            return 2 * written
        inner = self.computations.get(instruction.called("calls") or "", [])
        windows = windows_read(inner) if instruction.kind == "fusion" else {}
        read = 0.0
        for i, operand in enumerate(instruction.operands):
            whole = bytes_of(shapes.get(operand, ""), hbm_only=True)
            read += min(whole, windows.get(i, math.inf))
        # An update is done in place: only the updated part is written, not the whole array.
        inner_shapes = {x.name: x.shape for x in inner}
        for x in inner:
            if x.kind == "dynamic-update-slice":
                written -= bytes_of(x.shape, hbm_only=True)
                written += bytes_of(inner_shapes.get(x.operands[1], ""))
        return read + max(written, 0)


def windows_read(fusion: list[Instruction]) -> dict[int, float]:
    """Bytes that a fusion reads of those parameters of which it takes or updates only a part."""
    users: dict[str, list[Instruction]] = {}
    for instruction in fusion:
        for name in instruction.operands:
            users.setdefault(name, []).append(instruction)
    windows = {}
    for instruction in fusion:
        if instruction.kind != "parameter":
            continue
        parts = [part_read(user, instruction.name) for user in users.get(instruction.name, [])]
        if parts and None not in parts:
            windows[instruction.number] = sum(parts)
    return windows


def part_read(user: Instruction, name: str) -> float | None:
    """Bytes of an operand that a user reads; None if that is all of it."""
    if user.operands[0] != name:
        return None
    if user.kind == "dynamic-slice":
        return bytes_of(user.shape)
    if user.kind == "dynamic-update-slice":
        return 0.0
    return None


def chain_of(instruction: Instruction) -> tuple[str, str] | None:
    """What the parts of a collective that runs beside other operations have in common."""
    chain = re.search(r"chain_id=\"?(\d+)", instruction.rest)
    channel = re.search(r"channel_id=\"?(\d+)", instruction.rest)
    if chain is None or channel is None:
        return None
    return chain[1], channel[1]


def copied_bytes(shape: str) -> float:
    """Bytes moved to or from HBM by a copy of all or a part of an array."""
    source, target = [match[0] for match in ARRAY.finditer(shape)][:2]
    ends_in_hbm = sum(VMEM not in end for end in (source, target))
    return min(bytes_of(source), bytes_of(target)) * ends_in_hbm


def parse_instruction(name: str, shape: str, kind: str, rest: str) -> Instruction:
    """An instruction from the parts of its line."""
    arguments = "" if kind == "constant" else rest.split("), ")[0]
    operands = tuple(re.findall(r"%([\w.\-]+)", arguments))
    return Instruction(name, shape, kind, operands, rest)


def bytes_of(shape: str, hbm_only: bool = False) -> float:
    """Bytes of an array, or of all arrays of a tuple; only of those in HBM if asked."""
    total = 0.0
    for kind, sides, layout in ARRAY.findall(shape):
        if not (hbm_only and VMEM in layout):
            count = math.prod(int(side) for side in sides.split(",") if side)
            total += width_of(kind) * count
    return total


def width_of(kind: str) -> float:
    """Bytes of a number of this type."""
    if kind in WIDTHS:
        return WIDTHS[kind]
    return int(re.search(r"\d+", kind)[0]) / 8


def sent_around_ring(kind: str, start: bool, size: float, group: int) -> float:
    """Bytes that each device of a group sends around a ring, from the bytes of the result.

    A collective that is only started (`start`) has its operands beside its results.
    """
    if kind == "all-gather":
        result = size * group / (group + 1) if start else size
        return result * (group - 1) / group
    if kind == "all-reduce":
        return 2 * size * (group - 1) / group
    if kind == "reduce-scatter":
        result = size / (group + 1) if start else size
        return result * (group - 1)
    result = size / 2 if start else size
    if kind == "collective-permute":
        return result
    return result * (group - 1) / group
