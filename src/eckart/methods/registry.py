"""The choices at one of a recipe's places, by name: those of this package, and those that others add."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, packages_distributions, version
from typing import Generic, TypeVar

from pydantic_core import PydanticCustomError

from eckart.errors import RecipeError
from eckart.methods.choice import Choice, expand_name

AnyChoice = TypeVar("AnyChoice", bound=Choice)


class Registry(Mapping[str, type[AnyChoice]], Generic[AnyChoice]):
    """Classes of choices by name.

    A name is looked for among the choices of this package, then among those that :meth:`add` was handed, then among
    the entry points that installed packages declare in the group ``eckart.PLACE``, whose module is imported only then.
    """

    def __init__(self, place: str, base: type[Choice], own: Sequence[type[AnyChoice]]) -> None:
        """Start with the choices of this package.

        Args:
            place: ``objectives``, ``allocations`` or ``structures``.
            base: what every choice there derives from.
            own: the classes.
        """
        self.place = place
        self._base = base
        self._own = {name_of(choice): choice for choice in own}
        self._added: dict[str, type[AnyChoice]] = {}

    def add(self, choice: type[AnyChoice]) -> type[AnyChoice]:
        """Let recipes name a choice for as long as this process runs; a decorator of its class.

        Adding a class again under its own name replaces it, as in a notebook.

        Raises:
            RecipeError: it is no such class, or its name is that of a choice of this package.
        """
        self._check(choice, getattr(choice, "__qualname__", repr(choice)))
        if name_of(choice) in self._own:
            raise RecipeError(
                f"{choice.__qualname__} is called {name_of(choice)!r}, as one of the {self.place} of eckart itself is. "
                "Give it another name."
            )
        self._added[name_of(choice)] = choice
        return choice

    def parse(self, value: object) -> object:
        """Return the choice that a name, or a name and fields, describes; what is no description stays as it is.

        Raises:
            PydanticCustomError: there is none of that name.
        """
        data = expand_name(value)
        if not isinstance(data, dict):
            return data
        name = data.get("name")
        if not isinstance(name, str) or name not in self:
            context = {"found": name, "known": list(self)}
            raise PydanticCustomError("unknown_choice", "none of the choices is called {found}", context)
        return self[name].model_validate(data)

    def __getitem__(self, name: str) -> type[AnyChoice]:
        found = self._own.get(name) or self._added.get(name)
        return found or self._load(name)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._added or name in self._declared()

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._own, *self._added, *self._declared()]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _declared(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=f"eckart.{self.place}")}

    def _load(self, name: str) -> type[AnyChoice]:
        point = self._declared()[name]
        where = f"{point.value} of the package {point.dist.name if point.dist else 'that declares it'}"
        try:
            choice = point.load()
        except Exception as error:  # whatever the module of somebody else raises
            raise RecipeError(
                f"{name!r} among the {self.place} is {where}, which cannot be imported: {error}. Repair that package, "
                "or uninstall it."
            ) from error
        self._check(choice, where)
        if name_of(choice) != name:
            raise RecipeError(f"{where} is declared as {name!r}, but calls itself {name_of(choice)!r}.")
        self._added[name] = choice
        return choice  # type: ignore[no-any-return]

    def _check(self, choice: object, where: str) -> None:
        if not (isinstance(choice, type) and issubclass(choice, self._base)):
            raise RecipeError(f"{where} is none of the {self.place}: expected a subclass of {self._base.__name__}.")
        if not isinstance(name_of(choice), str):
            raise RecipeError(f"{where} has no name: expected a field such as name: Literal['x'] = 'x'.")


def name_of(choice: type[Choice]) -> str:
    """Return the name by which recipes know a class of choices."""
    return choice.model_fields["name"].default  # type: ignore[no-any-return]


def foreign_versions(choices: Sequence[Choice]) -> dict[str, str]:
    """Return the versions of the packages, other than this one, that some choices come from, by package."""
    modules = sorted({type(choice).__module__.partition(".")[0] for choice in choices} - {"eckart"})
    distributions = packages_distributions() if modules else {}
    names = [name for module in modules for name in distributions.get(module, [module])]
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not a package"
