"""Quadtree coding as a process stepped by decisions from outside, many pictures at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ambi_rl.codec import tables
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.context import context_of
from ambi_rl.codec.entropy.coder import COUNT, ESTIMATE, Model, start_encoding
from ambi_rl.codec.frame import Decision, Planes, decisions_of
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.block import (
    AUTO_CHROMA,
    AUTO_TRANSFORM,
    SPLIT,
    begin,
    clear_maps,
    code_node,
    lambda_of,
    squared_error,
)
from ambi_rl.codec.kernel.state import (
    BITS,
    MODE,
    NEUTRAL,
    NODE_LOG2,
    NODE_X,
    NODE_Y,
    NUM_OFFSETS,
    NUM_STRATEGIES,
    PLANES,
    Constants,
    Picture,
    Work,
    allocate_picture,
)
from ambi_rl.codec.strategists import Strategist
from ambi_rl.codec.strategists.estimate import rank_strategies
from ambi_rl.codec.strategists.lookahead import look_ahead
from ambi_rl.codec.strategists.observation import observe
from ambi_rl.codec.strategists.policy_net import Network
from ambi_rl.codec.strategists.search import Plan, planned_decision, search_node
from ambi_rl.errors import UsageError

Floats = npt.NDArray[np.float64]
Rate = Literal["model", "estimate"]

_MODES: dict[str, int] = {"model": COUNT, "estimate": ESTIMATE}
RATES = tuple(_MODES)
"""How bits can be counted, see `BlockCodingBatch`."""

_ADAPTING = ("probs", "weights")
"""What of a process adapts from what the bundle gives: large, and mostly as it began."""


@kernel
def _look_ahead_at(batch: Picture, s: Work, c: Constants, b: int) -> None:
    """Look ahead over one picture of a batch."""
    p = Picture(
        batch.source[b],
        batch.decoded[b],
        batch.maps[b],
        batch.stream[b],
        batch.state[b],  # type: ignore[index]
        batch.outlook[b],
        batch.magnitudes[b],
        batch.importance[b],
    )
    look_ahead(p, s, c)


@kernel
def _observe_range(
    batch: Picture,
    s: Work,
    c: Constants,
    first: int,
    last: int,
    observations: npt.NDArray[np.float32],
    masks: npt.NDArray[np.bool_],
) -> None:
    """Observations and valid choices of the current nodes of pictures first…last−1."""
    choices = int(c.counts[NUM_STRATEGIES]) + 1 + int(c.counts[NUM_OFFSETS])
    for b in range(first, last):
        p = Picture(
            batch.source[b],
            batch.decoded[b],
            batch.maps[b],
            batch.stream[b],
            batch.state[b],  # type: ignore[index]
            batch.outlook[b],
            batch.magnitudes[b],
            batch.importance[b],
        )
        log2 = int(p.state.control[NODE_LOG2])
        if log2 == 0:
            continue
        m = Model(p.state, s, c, p.stream)
        observe(p, s, c, m, int(p.state.control[NODE_Y]), int(p.state.control[NODE_X]), log2)
        for k in range(observations.shape[1]):
            observations[b, k] = s.observation[k]
        for k in range(choices):
            masks[b, k] = True
        masks[b, SPLIT] = log2 > tables.MIN_BLOCK_LOG2


@kernel
def _step_range(
    batch: Picture,
    s: Work,
    c: Constants,
    first: int,
    last: int,
    decisions: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int32],
    chromas: npt.NDArray[np.int32],
    transforms: npt.NDArray[np.int32],
    bits: Floats,
    error: Floats,
    chroma_error: Floats,
    done: npt.NDArray[np.bool_],
) -> None:
    """Take one decision in each of the pictures first…last−1 that are not done."""
    for b in range(first, last):
        p = Picture(
            batch.source[b],
            batch.decoded[b],
            batch.maps[b],
            batch.stream[b],
            batch.state[b],  # type: ignore[index]
            batch.outlook[b],
            batch.magnitudes[b],
            batch.importance[b],
        )
        log2 = int(p.state.control[NODE_LOG2])
        bits[b] = 0.0
        error[b] = 0.0
        chroma_error[b] = 0.0
        if log2 == 0:
            done[b] = True
            continue
        y, x = int(p.state.control[NODE_Y]), int(p.state.control[NODE_X])
        if decisions[b] == SPLIT and log2 == tables.MIN_BLOCK_LOG2:
            m = Model(p.state, s, c, p.stream)
            decisions[b] = rank_strategies(p, s, c, m, y, x, log2, False) + 1
        before = p.state.registers[BITS]
        error[b] = code_node(
            p, s, c, int(decisions[b]), int(offsets[b]), int(chromas[b]), int(transforms[b])
        )
        bits[b] = (p.state.registers[BITS] - before) / 65536
        if decisions[b] != SPLIT:
            for plane in range(1, p.state.control[PLANES]):
                chroma_error[b] += squared_error(p, plane, y, x, 1 << log2)
        done[b] = p.state.control[NODE_LOG2] == 0


@kernel
def _advise_range(
    batch: Picture,
    s: Work,
    c: Constants,
    net: Network,
    plan: Plan,
    first: int,
    last: int,
    decisions: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int32],
) -> None:
    """What a search would decide at the current node of each of the pictures first…last−1."""
    for b in range(first, last):
        p = Picture(
            batch.source[b],
            batch.decoded[b],
            batch.maps[b],
            batch.stream[b],
            batch.state[b],  # type: ignore[index]
            batch.outlook[b],
            batch.magnitudes[b],
            batch.importance[b],
        )
        log2 = int(p.state.control[NODE_LOG2])
        if log2 == 0:
            continue
        y, x = int(p.state.control[NODE_Y]), int(p.state.control[NODE_X])
        mode = p.state.registers[MODE]
        bits = p.state.registers[BITS]
        p.state.registers[MODE] = ESTIMATE
        m = Model(p.state, s, c, p.stream)
        search_node(p, s, c, m, net, plan, y, x, log2)
        p.state.registers[MODE] = mode
        p.state.registers[BITS] = bits
        decision, offset, _, _ = planned_decision(p.maps, y >> 2, x >> 2, log2)
        decisions[b] = decision
        offsets[b] = int(c.counts[NEUTRAL]) if decision == SPLIT else offset
        # Nothing of the node is coded yet, so clearing its maps takes the trial back.
        clear_maps(p, y, x, 1 << log2)


@kernel
def _lambda(p: Picture, c: Constants) -> float:
    return lambda_of(p, c)


class BlockCodingBatch:
    """B coding processes, each of one patch, stepped together in compiled code on all cores.

    The processes count the cost of what they code, but write no stream. With rate "model" the entropy model
    adapts and costs are exactly an encoder's. With "estimate" levels cost what the trellis reckons and
    nothing adapts, as in the trials of a search: some 4 % more bits, a correlation of 0.997, half the time.

    Attributes:
        num_decisions: S + 1: split, then one for each prediction strategy.
        num_offsets: O.
        observation_size: F.
        bits: float64 [B], bits of the last step.
        error: float64 [B], squared error of the last step's leaf (0 for a split), 8-bit code values,
            mean of R, G, B, summed over its pixels.
        chroma_error: float64 [B], the part of it that is Cb's and Cr's.
        done: bool [B], whether the patch is coded.
        taken: int32 [B], the decision of the last step after invalid ones were replaced.
    """

    def __init__(
        self,
        batch: int,
        height: int,
        width: int,
        bundle: Bundle,
        *,
        planes: int = 3,
        threads: int | None = None,
        rate: Rate = "model",
    ) -> None:
        """Allocate `batch` processes for patches of `height`×`width` pixels (multiples of 4).

        Raises:
            UsageError: The size is not a positive multiple of 4, or there is no such rate.
        """
        if rate not in _MODES:
            raise UsageError(f"rate is {rate!r}; it can be {' or '.join(RATES)}")
        self._mode = _MODES[rate]
        if height < 4 or width < 4 or height % 4 or width % 4:
            raise UsageError(f"patch size {height}x{width} is not a multiple of 4")
        self._context = context_of(bundle)
        self._bundle = bundle
        self._counters = np.ascontiguousarray(bundle.entropy["counters"])
        self._mixers = np.ascontiguousarray(bundle.entropy["mixers"])
        self._picture = allocate_picture(planes, height, width, 1, batch=batch, outlook=True)
        self.batch, self.height, self.width, self.planes = batch, height, width, planes
        self.num_decisions = self._context.strategies + 1
        self.num_offsets = self._context.offsets
        self.observation_size = self._context.observation_size
        self.bits = np.zeros(batch)
        self.error = np.zeros(batch)
        self.chroma_error = np.zeros(batch)
        self.done = np.ones(batch, bool)
        self.taken = np.zeros(batch, np.int32)
        self._offsets = np.zeros(batch, np.int32)
        self._chromas = np.full(batch, AUTO_CHROMA, np.int32)
        self._transforms = np.full(batch, AUTO_TRANSFORM, np.int32)
        workers = max(1, min(threads or os.cpu_count() or 1, batch))
        self._work = [self._context.work() for _ in range(workers)]
        # More ranges than threads: pictures differ in what they cost, and who is done takes the next range.
        bounds = np.linspace(0, batch, min(batch, 4 * workers) + 1).astype(int)
        self._ranges = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
        self._pool = ThreadPoolExecutor(workers - 1) if workers > 1 else None
        self._new: list[int] = []
        """Processes whose pictures have not been looked at."""
        self._began = [(self._counters, self._mixers)] * batch
        """Adapting state that each process began with, which need not be the present bundle's."""

    @property
    def bundle(self) -> Bundle:
        """The bundle whose entropy state episodes start from."""
        return self._bundle

    def use_bundle(self, bundle: Bundle) -> None:
        """Start later episodes with another bundle.

        Raises:
            UsageError: Its strategies or offsets are not those of the present one.
        """
        lists = (bundle.strategies, bundle.offsets)
        if lists != (self._bundle.strategies, self._bundle.offsets):
            raise UsageError("the other bundle has other strategies or offsets; make a new batch")
        self._context = context_of(bundle)
        self._bundle = bundle
        self._counters = np.ascontiguousarray(bundle.entropy["counters"])
        self._mixers = np.ascontiguousarray(bundle.entropy["mixers"])

    def load(self, index: int, planes: Planes, step: int) -> None:
        """Begin an episode: set the patch (int16 [P, H, W], 10 bits) and the quantizer step (1/64)."""
        picture = self._member(index)
        picture.source[...] = planes
        picture.decoded[...] = 0
        picture.state.probs[...] = self._counters
        picture.state.weights[...] = self._mixers
        self._began[index] = (self._counters, self._mixers)
        start_encoding(picture.state.registers)
        picture.state.registers[MODE] = self._mode
        begin(picture, self.planes, self.height, self.width, step)
        self.done[index] = False
        self._new.append(index)

    def _member(self, index: int) -> Picture:
        batch = self._picture
        return Picture(
            batch.source[index],
            batch.decoded[index],
            batch.maps[index],
            batch.stream[index],
            batch.state[index],  # type: ignore[index]
            batch.outlook[index],
            batch.magnitudes[index],
            batch.importance[index],
        )

    def observe(self, observations: npt.NDArray[np.float32], masks: npt.NDArray[np.bool_]) -> None:
        """Fill observations float32 [B, F] and masks bool [B, S + 1 + O]; rows of done ones stay."""
        constants = self._context.constants
        new, self._new = self._new, []

        def look(worker: int, first: int, last: int) -> None:
            for index in new[first:last]:
                _look_ahead_at(self._picture, self._work[worker], constants, index)

        def run(worker: int, first: int, last: int) -> None:
            _observe_range(
                self._picture, self._work[worker], constants, first, last, observations, masks
            )

        if new:
            self._on_all_cores(look, [(i, i + 1) for i in range(len(new))])
        self._on_all_cores(run, self._ranges)

    def step(
        self,
        decisions: npt.NDArray[np.integer],
        offsets: npt.NDArray[np.integer],
        chromas: npt.NDArray[np.integer] | None = None,
        transforms: npt.NDArray[np.integer] | None = None,
    ) -> None:
        """Take a decision [B] and an offset [B] in every process that is not done.

        A decision that is not valid (splitting a 4x4 block) becomes the strategy of least estimated cost;
        `taken` says what was done. Without `chromas` the kernel chooses the chroma
        strategy, without `transforms` the transform of luma.
        """
        self.taken[:] = decisions
        self._offsets[:] = offsets
        self._chromas[:] = AUTO_CHROMA if chromas is None else chromas
        self._transforms[:] = AUTO_TRANSFORM if transforms is None else transforms
        constants = self._context.constants

        def run(worker: int, first: int, last: int) -> None:
            _step_range(
                self._picture,
                self._work[worker],
                constants,
                first,
                last,
                self.taken,
                self._offsets,
                self._chromas,
                self._transforms,
                self.bits,
                self.error,
                self.chroma_error,
                self.done,
            )

        self._on_all_cores(run, self._ranges)

    def advise(
        self, teacher: Strategist, importance: npt.NDArray[np.float32] | None = None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """What a teacher would decide at every current node, given what has been coded until there.

        Args:
            teacher: A strategist that searches.
            importance: float32 [B, H/4, W/4], positive: weight of each unit's squared error for the teacher;
                None if all count alike.

        Returns:
            Decisions and offsets, int64 [B]; 0 where the process is done.

        Raises:
            UsageError: The strategist does not search, or the importance has another shape.
        """
        if teacher.name != "search":
            raise UsageError(f"the teacher is {teacher.name!r}; only a search can be asked")
        batch, context = self._picture, self._context
        if importance is not None:
            shape = (self.batch, self.height // 4, self.width // 4)
            if importance.shape != shape:
                raise UsageError(
                    f"importance has shape {importance.shape}; this batch needs {shape}"
                )
            batch = batch._replace(importance=np.ascontiguousarray(importance, np.float32))
        plan = teacher.plan(context.dc)
        decisions = np.zeros(self.batch, np.int32)
        offsets = np.zeros(self.batch, np.int32)

        def run(worker: int, first: int, last: int) -> None:
            _advise_range(
                self._picture,
                self._work[worker],
                context.constants,
                context.network,
                plan,
                first,
                last,
                decisions,
                offsets,
            )

        self._on_all_cores(run, self._ranges)
        return decisions.astype(np.int64), offsets.astype(np.int64)

    def _on_all_cores(
        self, run: Callable[[int, int, int], None], ranges: Sequence[tuple[int, int]]
    ) -> None:
        """Call run(worker, first, last) for every range, on all threads, in no particular order."""
        # Compiled code releases the GIL, so plain threads share the work; the caller's thread takes part.
        remaining = iter(ranges)
        lock = Lock()

        def work(worker: int) -> None:
            while True:
                with lock:
                    chosen = next(remaining, None)
                if chosen is None:
                    return
                run(worker, *chosen)

        helpers = 0 if self._pool is None else min(len(self._work), len(ranges)) - 1
        pending: list[Future[None]] = []
        if self._pool is not None:
            pending = [self._pool.submit(work, worker) for worker in range(1, helpers + 1)]
        work(0)
        for future in pending:
            future.result()

    def node(self, index: int) -> tuple[int, int, int]:
        """Current node of a process: y, x, side in pixels (side 0 when done)."""
        control = self._member(index).state.control
        log2 = int(control[NODE_LOG2])
        return int(control[NODE_Y]), int(control[NODE_X]), (1 << log2) if log2 else 0

    def reconstruction(self, index: int) -> Planes:
        """Copy of the decoded planes, int16 [P, H, W]; zero where nothing is coded yet."""
        return self._picture.decoded[index].copy()

    def source(self, index: int) -> Planes:
        """Copy of the source planes, int16 [P, H, W]."""
        return self._picture.source[index].copy()

    def decisions(self, index: int) -> list[Decision]:
        """Leaves coded so far, in raster order."""
        return decisions_of(self._picture.maps[index])

    def total_cost(self, index: int) -> int:
        """Cost of everything coded since `load`, in 1/65536 bit; exact."""
        return int(self._member(index).state.registers[BITS])

    def counters(self, index: int) -> npt.NDArray[np.int32]:
        """Copy of the entropy model's counters as they stand, int32 [C]."""
        return self._member(index).state.probs.copy()

    def lagrangian(self, index: int) -> float:
        """λ in J = error + λ·bits for this episode's quantizer step."""
        return float(_lambda(self._member(index), self._context.constants))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Copies of all that the running processes hold, from which `restore` goes on exactly.

        Of the adapting counters and mixers (0.7 MB a process) only what differs from where the process began
        is kept, with the few arrays that any of them began with.
        """
        arrays = {name: np.array(memory) for name, memory in self._memory().items()}
        for kind, name in enumerate(_ADAPTING):
            arrays |= self._differences(name, [pair[kind] for pair in self._began])
        return arrays | {"new": np.array(self._new, np.int64)}

    def restore(self, state: dict[str, npt.NDArray[Any]]) -> None:
        """Go on from what `state` returned, with the bundle in use that was in use then.

        Raises:
            UsageError: It is the state of a batch of another size, or of another version; nothing is changed.
        """
        memory = self._memory()
        expected = {name: (array.shape, array.dtype) for name, array in memory.items()}
        found = {name: (state[name].shape, state[name].dtype) for name in memory if name in state}
        sizes = [
            state[f"{name}_began"].shape[1:] == self._adapting(name).shape[1:]
            for name in _ADAPTING
            if f"{name}_began" in state
        ]
        if found != expected or sizes != [True] * len(_ADAPTING):
            raise UsageError("they are of another number or size of patches, or of another version")
        for name, array in memory.items():
            array[...] = state[name]
        self._began = list(zip(*(self._rebuild(name, state) for name in _ADAPTING), strict=True))
        self._new = state["new"].tolist()

    def _adapting(self, name: str) -> npt.NDArray[Any]:
        """An adapting part of every process, [B, ...]."""
        records: Any = self._picture.state
        return np.asarray(records[name])

    def _memory(self) -> dict[str, npt.NDArray[Any]]:
        """Everything else that a process holds, by name, [B, ...]."""
        records: Any = self._picture.state
        memory = {"done": self.done}
        memory |= {k: v for k, v in self._picture._asdict().items() if k != "state"}
        return memory | {k: records[k] for k in records.dtype.names if k not in _ADAPTING}

    def _differences(
        self, name: str, began: Sequence[npt.NDArray[Any]]
    ) -> dict[str, npt.NDArray[Any]]:
        """An adapting part as its differences from what each process began with."""
        distinct = list({id(array): array for array in began}.values())
        places = {id(array): number for number, array in enumerate(distinct)}
        pairs = list(zip(self._adapting(name), began, strict=True))
        changed = [np.flatnonzero(now != first).astype(np.int32) for now, first in pairs]
        values = [now[where] for (now, _), where in zip(pairs, changed, strict=True)]
        return {
            f"{name}_began": np.stack(distinct),
            f"{name}_which": np.array([places[id(array)] for array in began], np.int64),
            f"{name}_counts": np.array([len(where) for where in changed], np.int64),
            f"{name}_where": np.concatenate(changed),
            f"{name}_values": np.concatenate(values),
        }

    def _rebuild(self, name: str, state: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Set an adapting part from `_differences`; returns what each process began with."""
        distinct = list(np.ascontiguousarray(state[f"{name}_began"]))
        began = [distinct[number] for number in state[f"{name}_which"]]
        ends = np.cumsum(state[f"{name}_counts"])[:-1]
        where = np.split(state[f"{name}_where"], ends)
        values = np.split(state[f"{name}_values"], ends)
        for b, now in enumerate(self._adapting(name)):
            now[...] = began[b]
            now[where[b]] = values[b]
        return began

    def close(self) -> None:
        """Stop the worker threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
