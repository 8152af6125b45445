"""What loading weights did: which tensors found their place, which did not, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, field

_SHOWN = 4  # names of a long list that are printed; the lists themselves are whole


class WeightsError(ValueError):
    """A file of weights cannot be read, or does not fit the module; the message says what to do."""


@dataclass
class LoadReport:
    """What :func:`internimage.load_weights` did. ``print(report)`` shows it.

    Attributes:
        source: the file, folder or catalog name.
        loaded: tensors of the module that now hold values of the source.
        total: tensors of the module.
        missing: names in the module for which the source has nothing; they keep their values.
        unexpected: names in the source that the module has no place for.
        wrong_shape: (name in the module, shape in the source, shape in the module).
        converted: what was changed on the way, such as a head of 22k classes cut down to 1000.
        skipped: names in the source that are known not to belong to such a module, by reason.
        kept_classifier: what to know when the source has another number of classes; empty otherwise.
        notes: what else a reader should know.
        advice: what to do about the rest.
    """

    source: str
    loaded: int = 0
    total: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    kept_classifier: str = ""
    notes: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Nothing is missing, unexpected or of the wrong shape."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    def skip(self, reason: str, key: str) -> None:
        """Note a key of the source that is left out on purpose."""
        self.skipped.setdefault(reason, []).append(key)

    def __str__(self) -> str:
        shapes = [f"{name} is {found} in the file, {wanted} in the module" for name, found, wanted in self.wrong_shape]
        lines = [f"{self.source}: {self.loaded} of the module's {self.total} tensors loaded"]
        lines += [f"  converted    {line}" for line in self.converted]
        lines += [f"  skipped      {len(keys)} tensors: {reason}" for reason, keys in self.skipped.items()]
        for label, names in (("missing", self.missing), ("unexpected", self.unexpected), ("wrong shape", shapes)):
            if names:
                lines.append(f"  {label:<12} {_shorten(names)}")
        lines += [f"  note         {line}" for line in (self.kept_classifier, *self.notes) if line]
        lines += [f"  what to do   {line}" for line in self.advice]
        return "\n".join(lines)


def _shorten(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
