"""docs/recipes.md holds the reference that docs/generate_config_reference.py prints."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "docs" / "generate_config_reference.py"


def test_the_reference_of_configuration_keys_is_up_to_date():
    spec = importlib.util.spec_from_file_location("generate_config_reference", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = SCRIPT.with_name("recipes.md").read_text()
    found = page.partition(module.BEGIN)[2].partition(module.END)[0].strip()
    assert found == module.reference().strip(), "run: python docs/generate_config_reference.py --write"
