"""conda/recipe.yaml: rendered by rattler-build for each Python, and then carried out without conda,
for machines that reach none of its channels: what the recipe requires is installed by pip, and the
script of its build and its tests run as they stand there."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

from rattler_build import Stage0Recipe, VariantConfig

ROOT = Path(__file__).parent.parent
HERE = ROOT / "build" / "conda"
BIN = HERE / "venv" / "bin"


def main() -> None:
    rendered = Stage0Recipe.from_file(ROOT / "conda" / "recipe.yaml").render(
        VariantConfig.from_file(ROOT / "conda" / "variants.yaml")
    )
    for each in rendered:
        recipe = each.recipe.to_dict()
        print(recipe["package"]["name"], recipe["package"]["version"], each.variant["python"])
    requirements = recipe["requirements"]

    shutil.rmtree(HERE, ignore_errors=True)
    venv.create(HERE / "venv", with_pip=True)
    install(requirements["host"])
    sources = HERE / "sources"
    sources.mkdir()
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, sources / name)
    run(recipe["build"]["script"].replace("${{ PYTHON }}", str(BIN / "python")), sources)

    install(requirements["run"])
    elsewhere = HERE / "tests"
    elsewhere.mkdir()
    for test in recipe["tests"]:
        for name in test.get("python", {}).get("imports", []):
            run(f"python -c 'import {name}'", elsewhere)
        for line in test.get("script", []):
            run(line, elsewhere)
    run("python -m pip check", elsewhere)


def install(requirements: list[str]) -> None:
    """By pip, what the recipe requires of conda; the environment has its own Python and pip."""
    wanted = [each.replace(" ", "") for each in requirements if each not in ("python", "pip")]
    subprocess.run([BIN / "pip", "install", "-q", *wanted], check=True)


def run(line: str, folder: Path) -> None:
    """A line of a script, in the environment. What it prints is shown if it fails."""
    done = subprocess.run(
        f"PATH={BIN}:$PATH; {line}", shell=True, cwd=folder, capture_output=True, text=True
    )
    print(line if done.returncode == 0 else done.stdout + done.stderr)
    if done.returncode:
        sys.exit(f"{line}: exit code {done.returncode}")


if __name__ == "__main__":
    main()
