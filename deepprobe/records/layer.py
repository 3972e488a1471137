"""Which tensor of which layer call a number belongs to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class LayerCall:
    """One call of one module in a forward pass, and one tensor of what went in or came out.

    Attributes:
        depth: Weighted layers that had run when the tensor was made, from 1 (layers of shortcuts not counted).
        order: Position among everything recorded in one forward pass, from 0.
        layer: The module's dotted name; an output that is a container adds the place inside it (``lstm[0]``).
        call: 1 for the module's first call in a forward pass, 2 for its second, ….
        type: The module's class name.
        tap: ``input``, ``output`` or ``block``.
    """

    depth: int
    order: int
    layer: str
    call: int
    type: str
    tap: str

    @property
    def key(self) -> str:
        """``layer`` for a first call, ``layer#2`` for a second."""
        return self.layer if self.call == 1 else f"{self.layer}#{self.call}"
