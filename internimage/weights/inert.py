"""Reads pickled checkpoints without running anything in them.

PyTorch's ``weights_only`` reader builds tensors and plain containers, and refuses every other name. Training scripts
also store their configuration (a yacs ``CfgNode``, an argparse ``Namespace``) and numpy numbers beside the weights:
for these names the reader is given stand-ins that hold the data and can do nothing. What comes out is plain: dict,
list, tuple, numbers, strings, numpy arrays, tensors.
"""

from __future__ import annotations

import pickletools
import re
import threading
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .report import WeightsError

_PLAIN_DTYPE = re.compile(r"[<>|=]?([?bBhHiIlLqQefdFD]|[biufc]\d{1,2}|[SU]\d*)")
_NUMPY_TYPES = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
_NUMPY_TYPES += ["float16", "float32", "float64", "complex64", "complex128", "bool", "bool_"]
_safe_names = threading.Lock()  # torch keeps the names it allows in one global set


def read_pickle(path: str | Path) -> Any:
    """The contents of a ``.pth``, ``.pt`` or ``.bin`` file; tensors on the CPU, mapped from the file where it allows.

    Raises:
        WeightsError: the file is no checkpoint, or asks for a name that is not data; the message gives the name.
    """
    path = Path(path)
    mmap = zipfile.is_zipfile(path)  # files from before PyTorch 1.6 cannot be mapped
    try:
        with _safe_names, torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remark that a pickle is of another protocol than its own
            contents = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        return _plain(contents, {})
    except OSError:
        raise
    except Exception as error:  # a damaged file makes the reader fail in many ways
        raise WeightsError(_refusal(path, error)) from error


def _refusal(path: Path, error: Exception) -> str:
    pattern = r"GLOBAL (\S+)|(?:unrecognized function|allowlisted via `add_safe_globals` but got) (.+)"
    found = re.search(pattern, str(error))
    name = (found[1] or found[2]) if found else _first_name(path)
    if name is None:
        reason = error if isinstance(error, WeightsError) else "it is damaged, or torch.save did not write it"
        return f"{path} is no checkpoint that can be read safely: {reason}"
    return (
        f"{path} is refused: it asks for {name}, which is not data. Only tensors, plain containers, "
        "numbers, yacs and argparse configurations are read; nothing in the file was run. If you trust its origin, "
        'open it where it was made and save the weights alone: torch.save({"model": model.state_dict()}, ...)'
    )


def _first_name(path: Path) -> str | None:
    """What a plain pickle asks for first, in protocols that torch does not read; None where it is no pickle."""
    texts: list[str] = []
    name = None
    try:
        with open(path, "rb") as file:
            for code, argument, _ in pickletools.genops(file):  # takes it apart and runs nothing
                if isinstance(argument, str) and code.name not in ("GLOBAL", "INST"):
                    texts.append(argument)
                elif code.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
                    name = name or str(argument or ".".join(texts[-2:])).replace(" ", ".")
    except Exception:  # whatever it is, it is no whole pickle
        return None
    return name


class _Namespace:
    """In place of ``argparse.Namespace``."""

    fields: dict = {}

    def __setstate__(self, state: dict) -> None:
        self.fields = dict(state)


class _DType:
    """In place of ``numpy.dtype``; takes numbers and strings, no objects and no records."""

    def __init__(self, code: str | bytes, align: bool = False, copy: bool = True) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not _PLAIN_DTYPE.fullmatch(text):
            raise WeightsError(f"a numpy array of dtype {code!r}: not numbers or strings")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in (">", b">"):
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """In place of ``numpy.ndarray`` while it is put together."""

    value: np.ndarray = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, fortran, data = state
        values = np.frombuffer(_bytes(data), dtype.dtype)
        self.value = values.reshape(shape, order="F" if fortran else "C").copy()


def _array(subtype: Any, shape: Any, code: Any) -> _Array:
    return _Array()


def _scalar(dtype: _DType, data: Any) -> Any:
    return np.frombuffer(_bytes(data), dtype.dtype, count=1)[0].item()


def _bytes(data: Any) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


_OPEN = object()  # a container whose items are being looked at


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """``value`` with plain containers in place of the stand-ins; ``seen`` keeps what shares its items from growing."""
    if isinstance(value, _DType):
        return value.dtype
    if isinstance(value, _Array):
        return value.value
    if not isinstance(value, (_Namespace, dict, list, tuple)) or isinstance(value, torch.Size):
        return value
    done = seen.get(id(value))
    if done is _OPEN:
        raise WeightsError("a container in it contains itself")
    if done is None:
        seen[id(value)] = _OPEN
        if isinstance(value, (list, tuple)):
            done = type(value)(_plain(item, seen) for item in value)
        else:
            items = value.fields if isinstance(value, _Namespace) else value
            done = {key: _plain(item, seen) for key, item in dict.items(items)}
        seen[id(value)] = done
    return done


def _no_bytes() -> bytes:
    return b""  # how pickle writes them; with an argument `bytes` would fill the memory


# A CfgNode is a dict with settings of its own beside the items; an OrderedDict takes both without looking at them.
_STAND_INS: list = [
    (OrderedDict, "yacs.config.CfgNode"),
    (_Namespace, "argparse.Namespace"),
    (_Array, "numpy.ndarray"),
    (_DType, "numpy.dtype"),
    (_no_bytes, "builtins.bytes"),
]
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _STAND_INS += [(_array, f"{_module}._reconstruct"), (_scalar, f"{_module}.scalar")]
_STAND_INS += [(getattr(np, name, np.bool_), f"numpy.{name}") for name in _NUMPY_TYPES]
