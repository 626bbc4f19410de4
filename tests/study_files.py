"""Study files that tests write and read."""

import yaml

from visurf.studies.plan import base_values, read_study


def written(folder, values, changes):
    """The path of a study file in a folder, of values with some of them changed."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**values, **changes}, sort_keys=False))
    return path


def study_of(path):
    """A study and the values that its runs start from."""
    study = read_study(path)
    return study, base_values(study, path.parent)
