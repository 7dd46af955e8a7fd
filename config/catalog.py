"""All that exists, in one frozen object, and the loader that reports every fault at once."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from config.budgets import Budget
from config.document import Document
from config.entry import Entry
from config.errors import CatalogError, UnknownNameError
from config.models import Model, ModelsFile, Provider
from config.profiles import Focus, Profile, ProfilesFile, Routing
from config.rules import faults_of_models, faults_of_profiles, faults_of_schedule
from config.schedule import RecurringTask, ScheduleFile

__all__ = ["Catalog", "Focus", "Model", "Profile", "Provider", "RecurringTask", "Routing", "load_catalog"]

Found = TypeVar("Found")
File = TypeVar("File", bound=Entry)


class Catalog(Entry):
    """What exists: each mapping leads from a name to what has that name."""

    providers: Mapping[str, Provider]
    models: Mapping[str, Model]
    profiles: Mapping[str, Profile]
    focuses: Mapping[str, Focus]
    budgets: Mapping[str, Budget] = Field(default_factory=dict)
    routing: Routing
    schedule: Mapping[str, RecurringTask] = Field(default_factory=dict)

    def model(self, name: str) -> Model:
        """Find a model, also one that is retired.

        Raises:
            UnknownNameError: there is none of that name.
        """
        return find("model", name, self.models)

    def profile(self, name: str) -> Profile:
        """Find a profile.

        Raises:
            UnknownNameError: there is none of that name.
        """
        return find("profile", name, self.profiles)

    def focus(self, name: str) -> Focus:
        """Find a focus.

        Raises:
            UnknownNameError: there is none of that name.
        """
        return find("focus", name, self.focuses)

    def resolve(self, name: str, on: date) -> Model:
        """Find the model that a name stands for on a day: a retired one stands for its successor.

        Returns:
            A model that is retired itself where nothing succeeds it; callers pass it over.

        Raises:
            UnknownNameError: there is none of that name.
        """
        model = self.model(name)
        while model.is_retired(on) and model.successor:
            model = self.model(model.successor)
        return model


def find(kind: str, name: str, among: Mapping[str, Found]) -> Found:
    try:
        return among[name]
    except KeyError:
        raise UnknownNameError(kind, name, sorted(among)) from None


def load_catalog(folder: Path) -> Catalog:
    """Read models.yaml, profiles.yaml and schedule.yaml.

    Raises:
        CatalogError: the files have faults; all of them are in the error.
    """
    documents = [Document(folder / name) for name in ("models.yaml", "profiles.yaml", "schedule.yaml")]
    of_models, of_profiles, of_schedule = documents
    models = checked(of_models, ModelsFile)
    profiles = checked(of_profiles, ProfilesFile)
    schedule = checked(of_schedule, ScheduleFile)
    check_rules(of_models, of_profiles, of_schedule)
    if models is None or profiles is None or schedule is None or any(each.faults for each in documents):
        raise CatalogError([fault for document in documents for fault in document.report()])
    return Catalog(
        providers=models.providers,
        models=models.models,
        profiles=profiles.profiles,
        focuses=profiles.focuses,
        budgets=profiles.budgets,
        routing=profiles.routing,
        schedule=schedule.schedule,
    )


def checked(document: Document, kind: type[File]) -> File | None:
    """Check a file against its type; None: it has faults, which are in the document now."""
    if document.data is None:
        return None
    try:
        return kind.model_validate(document.data)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            # "[key]" and the tags of sources, "(pypi)", are pydantic's steps, not keys of the file.
            keys = tuple(key for key in each["loc"] if isinstance(key, int) or key[:1] not in ("[", "("))
            document.add(keys, each["msg"])
        return None


def check_rules(models: Document, profiles: Document, schedule: Document) -> None:
    """Check what must hold between entries; a file that cannot be read is not held against another."""
    if models.data is not None:
        for keys, what in faults_of_models(models.data):
            models.add(keys, what)
    if models.data is not None and profiles.data is not None:
        for keys, what in faults_of_profiles(profiles.data, models.data):
            profiles.add(keys, what)
    if models.data is not None and profiles.data is not None and schedule.data is not None:
        for keys, what in faults_of_schedule(schedule.data, profiles.data, models.data):
            schedule.add(keys, what)
