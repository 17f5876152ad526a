"""Steps of a packed model on the native core: ids in, logits out, through a paged key/value cache.

No torch, and no threads of its: the core has its own. docs/native.md draws the layouts.
"""

import ctypes
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from puna.errors import NativeError
from puna.native.library import Library
from puna.native.packed_adapter import LAYER_MATRICES, PackedAdapter
from puna.native.packed_model import PackedModel
from puna.native.packing import FORMATS, PackedLinear

MOST_THREADS = 256  # MOST_MEMBERS of native/step.h
_pointer, _long, _int, _float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


class _Linear(ctypes.Structure):
    _fields_ = (
        ("weights", _pointer),
        ("scales", _pointer),
        ("rows", _long),
        ("columns", _long),
        ("format", _int),
        ("group", _int),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        ("attention_norm", _pointer),
        ("qkv", _Linear),
        ("attention_output", _Linear),
        ("feed_forward_norm", _pointer),
        ("gate_up", _Linear),
        ("down", _Linear),
        ("keys", _pointer),
        ("values", _pointer),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, _long) for name in ("width", "heads", "kv_heads", "head_width", "hidden")),
        ("layers", _long),
        *((name, _float) for name in ("eps", "score_scale", "embedding_scale")),
        ("activation", _int),
        ("rotary_half", _long),
        ("cos", _pointer),
        ("sin", _pointer),
        ("embedding", _Linear),
        ("head", _Linear),
        ("norm", _pointer),
        ("layer", ctypes.POINTER(_Layer)),
        ("block_size", _long),
        ("cache_format", _int),
        ("input_levels", _float),
    )


class _Update(ctypes.Structure):
    _fields_ = (("a", _Linear), ("b", _pointer), ("panel", _pointer))


class _Adapter(ctypes.Structure):
    _fields_ = (("ranks", _long), ("update", ctypes.POINTER(_Update)))


class _Chunk(ctypes.Structure):
    _fields_ = (
        *((name, _long) for name in ("start", "count", "token")),
        ("blocks", _pointer),
        ("adapter", _pointer),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, _long) for name in ("tokens", "chunks", "wanted")),
        *((name, _pointer) for name in ("ids", "chunk", "rows")),
        ("vocabulary", _long),
        ("logits", _pointer),
        ("states", _pointer),
    )


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next tokens of one sequence: `ids` from position `start`. blocks: the sequence's, in
    order, these tokens' included. rows: how many of the last ids logits are wanted after. adapter:
    its name; None: the model as it is.
    """

    ids: Sequence[int]
    start: int
    blocks: Sequence[int]
    rows: int
    adapter: str | None = None


class ModelRunner:
    """A model with a cache of `num_blocks` blocks of `block_size` tokens, a multiple of 16, on
    `threads` threads, MOST_THREADS at most. int8_cache: keys and values as codes of 8 bits with a
    float32 scale for each token and head (native/paged_cache.h). adapters: by the names that chunks
    choose them by.

    Raises NativeError for a model or adapter that the core cannot run, or where there is no memory
    or thread. A row of logits depends on its own sequence and adapter alone, to the last bit: not
    on what else is in the step, where a prompt is cut, or the number of threads.
    """

    def __init__(
        self,
        library: Library,
        model: PackedModel,
        *,
        num_blocks: int,
        block_size: int,
        threads: int,
        int8_cache: bool = False,
        input_levels: float = 0.0,
        adapters: Mapping[str, PackedAdapter] = MappingProxyType({}),
    ) -> None:
        _check(library, model, block_size)
        for name, adapter in adapters.items():
            _check_adapter(name, adapter, model)
        self.model, self.tier, self.threads = model, library.tier, min(threads, MOST_THREADS)
        shape = model.shape
        bytes_ = num_blocks * block_bytes(library, model, block_size, int8_cache=int8_cache)
        try:
            # pages that the system gives when they are first used
            self._cache = [np.empty(bytes_, np.uint8) for _ in range(2 * shape.layers)]
        except MemoryError:
            raise NativeError(
                f"there is no memory for a key/value cache of {2 * shape.layers * bytes_} bytes:"
                " give cache_bytes"
            ) from None
        self._layers = (_Layer * shape.layers)(*map(self._layer, range(shape.layers)))
        self._model = self._described(block_size, _cache_format(model, int8_cache), input_levels)
        self.adapters = dict(adapters)  # the arrays that the next line has the addresses of
        self._adapters = {name: _adapter(each, shape.layers) for name, each in adapters.items()}
        self._scratch_bytes = library.function("step_scratch")
        self._scratch_bytes.restype = _long
        self._scratch_bytes.argtypes = (_pointer, _pointer, _pointer)
        self._step = library.function("step")
        self._step.restype = None
        self._step.argtypes = (_pointer, _pointer, _pointer, _pointer)
        self._scratch = np.empty(0, np.uint8)
        self._pool = library.new_pool(self.threads)
        weakref.finalize(self, library.free_pool, self._pool)

    def _described(self, block_size: int, cache_format: int, input_levels: float) -> _Model:
        model, shape = self.model, self.model.shape
        return _Model(
            shape.width,
            shape.heads,
            shape.kv_heads,
            shape.head_width,
            shape.hidden,
            shape.layers,
            shape.eps,
            shape.head_width**-0.5,
            shape.embedding_scale,
            shape.activation,
            shape.rotary_half,
            self._vector("cos"),
            self._vector("sin"),
            _linear(model.linears["embedding"]),
            _linear(model.head),
            self._vector("norm"),
            self._layers,
            block_size,
            cache_format,
            input_levels,
        )

    def _vector(self, name: str) -> int:
        return self.model.vectors[name].ctypes.data

    def _layer(self, index: int) -> _Layer:
        linears = self.model.linears
        return _Layer(
            self._vector(f"{index}.attention_norm"),
            _linear(linears[f"{index}.qkv"]),
            _linear(linears[f"{index}.attention_output"]),
            self._vector(f"{index}.feed_forward_norm"),
            _linear(linears[f"{index}.gate_up"]),
            _linear(linears[f"{index}.down"]),
            self._cache[2 * index].ctypes.data,
            self._cache[2 * index + 1].ctypes.data,
        )

    def run(
        self, chunks: Sequence[Chunk], vocab_size: int, *, states: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Logits [R, vocab_size] of the wanted rows of the first chunk, of the second, and so on;
        with `states` also the normalised hidden states of all tokens [N, D].

        Writes the tokens' keys and values into the chunks' blocks. Not for two threads at once.
        """
        described = (_Chunk * len(chunks))()
        blocks = [np.array(chunk.blocks, np.int32) for chunk in chunks]
        token, wanted = 0, list[int]()
        for each, chunk, own in zip(described, chunks, blocks, strict=True):
            count = len(chunk.ids)
            each.start, each.count, each.token = chunk.start, count, token
            each.blocks = own.ctypes.data
            if chunk.adapter is not None:
                each.adapter = ctypes.addressof(self._adapters[chunk.adapter])
            token += count
            wanted.extend(range(token - chunk.rows, token))
        ids = np.array([id_ for chunk in chunks for id_ in chunk.ids], np.int64)
        rows = np.array(wanted, np.int64)
        logits = np.empty((len(wanted), vocab_size), np.float32)
        hidden = np.empty((token, self.model.shape.width), np.float32) if states else None
        step = _Step(
            token,
            len(chunks),
            len(wanted),
            ids.ctypes.data,
            ctypes.addressof(described),
            rows.ctypes.data,
            vocab_size,
            logits.ctypes.data,
            None if hidden is None else hidden.ctypes.data,
        )
        self._step(self._pool, ctypes.byref(self._model), ctypes.byref(step), self._room(step))
        return logits, hidden

    def _room(self, step: _Step) -> int:
        """The address of the step's scratch memory, on a cache line."""
        needed = 64 + self._scratch_bytes(self._pool, ctypes.byref(self._model), ctypes.byref(step))
        if needed > len(self._scratch):
            self._scratch = np.empty(needed, np.uint8)
        return -(-self._scratch.ctypes.data // 64) * 64


def block_bytes(
    library: Library, model: PackedModel, block_size: int, *, int8_cache: bool = False
) -> int:
    """Bytes that the keys, or the values, of a block of one layer take."""
    shape, of = model.shape, library.function("block_bytes")
    of.restype, of.argtypes = _long, (_long, _long, _long, _int)
    format_ = _cache_format(model, int8_cache)
    return int(of(shape.kv_heads, shape.head_width, block_size, format_))


def _cache_format(model: PackedModel, int8_cache: bool) -> int:
    """The number of the format of keys and values."""
    if int8_cache:
        return FORMATS.index("int8")
    return FORMATS.index("bfloat16" if model.half else "float32")


def _linear(packed: PackedLinear) -> _Linear:
    return _Linear(
        packed.weights.ctypes.data,
        None if packed.scales is None else packed.scales.ctypes.data,
        packed.rows,
        packed.columns,
        FORMATS.index(packed.kind),
        packed.group,
    )


def _adapter(adapter: PackedAdapter, layers: int) -> _Adapter:
    described = (_Update * (layers * len(LAYER_MATRICES)))()
    for index in range(layers):
        for matrix, name in enumerate(LAYER_MATRICES):
            update = adapter.updates.get(f"{index}.{name}")
            if update is not None:
                described[index * len(LAYER_MATRICES) + matrix] = _Update(
                    _linear(update.a), update.b.ctypes.data, update.panels.ctypes.data
                )
    return _Adapter(adapter.ranks, described)


def _check_adapter(name: str, adapter: PackedAdapter, model: PackedModel) -> None:
    """Raise NativeError where an update does not fit its matrix."""
    for matrix, update in adapter.updates.items():
        linear = model.linears.get(matrix)
        if linear is None or matrix.partition(".")[2] not in LAYER_MATRICES:
            raise NativeError(
                f"the adapter {name!r} updates {matrix!r}, which is no matrix of a layer: pack it"
                " for this model"
            )
        found = (update.a.kind, update.a.columns, update.a.lanes, len(update.panels))
        wanted = ("float32", linear.columns, linear.lanes, linear.panels)
        if found != wanted:
            raise NativeError(
                f"the adapter {name!r} has an update of format, columns, lanes and panels {found}"
                f" for {matrix!r}, which has {wanted}: pack it for this model"
            )


def _check(library: Library, model: PackedModel, block_size: int) -> None:
    shape, lanes = model.shape, library.lanes
    rules = (
        (
            model.lanes == lanes,
            f"it is packed for {model.lanes} lanes, and {library.tier} has {lanes}",
        ),
        (block_size % 16 == 0, f"blocks of {block_size} tokens, no multiple of 16"),
        (shape.head_width > 0, "heads without width"),
        (
            shape.kv_heads > 0 and shape.heads % shape.kv_heads == 0,
            "query heads that do not divide",
        ),
        (2 * shape.rotary_half <= shape.head_width, "rotary tables wider than a head"),
        (0 <= shape.activation <= 4, f"activation {shape.activation}"),
        (min(shape.width, shape.hidden, shape.vocabulary) > 0, "no width"),
    )
    for holds, reason in rules:
        if not holds:
            raise NativeError(f"the native core cannot run this model: {reason}")
