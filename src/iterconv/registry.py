"""The registry: the members of one family by name, to which users can add.

Nothing here imports torch, so that the command line can name members at once.
"""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from iterconv.errors import InputError, shown, suggest


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str:
        """The name under which it is registered."""


Member = TypeVar("Member", bound=Named)


class Registry(dict[str, Member]):
    """The members of one family by name: those of iterconv first, then those that users register.

    Args:
        kind: The class of the members.
        members: The members of iterconv itself.
    """

    def __init__(self, kind: type, members: Iterable[Member]) -> None:
        super().__init__({member.name: member for member in members})
        self._kind, self._own = kind, frozenset(self)

    def register(self, member: Member) -> Member:
        """Add a member, in the place of one of the same name that was registered before.

        Args:
            member: The new member.

        Returns:
            The member.

        Raises:
            InputError: If it is not an instance of the registry's class, has no name, or has the name of a member of
                iterconv.
        """
        kind = self._kind.__name__
        if not isinstance(member, self._kind):
            raise InputError(f"{shown(member)} is not an instance of {self._kind.__module__}.{kind}; pass one")
        if not isinstance(getattr(member, "name", None), str) or not member.name:
            raise InputError(f"{shown(member)} has no name; give it one, by which it is found")
        # Stored configurations and tables refer to these by name, so their meaning must not change.
        if member.name in self._own:
            raise InputError(f"the {kind} {member.name!r} is iterconv's own; choose another name")
        self[member.name] = member
        return member

    def find(self, name: str) -> Member:
        """Return the member of a name.

        Args:
            name: The name.

        Raises:
            InputError: If there is none; the message suggests the nearest name.
        """
        if name not in self:
            raise InputError(f"there is no {self._kind.__name__.lower()} {shown(name)}; {suggest(str(name), self)}")
        return self[name]
