"""The protocol's part of the Kotlin client: compiled and played through the scenarios."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.examples.scenarios import EXAMPLES, FOLDER, scenarios

SOURCE = EXAMPLES / "kotlin" / "line" / "src"
PURE = ("Frames", "State", "Reconnect", "Client")
COMPILER = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
SERIALIZATION = "org.jetbrains.kotlinx.serialization.compiler.extensions"
SERVICES = {
    "CompilerPluginRegistrar": "SerializationComponentRegistrar",
    "CommandLineProcessor": "SerializationPluginOptions",
}


@dataclass(frozen=True, slots=True)
class Toolchain:
    """The jars of the Python package `kotlin-jupyter-kernel`, which brings compiler, plugin and libraries."""

    all: list[Path]
    libraries: list[Path]

    @classmethod
    def found(cls) -> Toolchain:
        spec = find_spec("run_kotlin_kernel")
        if spec is None or not spec.submodule_search_locations or shutil.which("java") is None:
            pytest.skip("needs java, and a Kotlin compiler: pip install kotlin-jupyter-kernel")
        jars = sorted((Path(spec.submodule_search_locations[0]) / "jars").glob("*.jar"))
        return cls(jars, [jar for jar in jars if jar.name.startswith(("kotlin-stdlib", "kotlinx-serialization"))])


def joined(paths: list[Path]) -> str:
    return ":".join(map(str, paths))


def compile(sources: list[Path], folder: Path) -> list[Path]:
    """Returns the class path of the result."""
    tools = Toolchain.found()
    plugin, classes = folder / "plugin.jar", folder / "classes"
    with zipfile.ZipFile(plugin, "w") as jar:
        for service, name in SERVICES.items():
            jar.writestr(
                f"META-INF/services/org.jetbrains.kotlin.compiler.plugin.{service}", f"{SERIALIZATION}.{name}\n"
            )
    options = ["-no-stdlib", "-no-reflect", "-Werror", f"-Xplugin={plugin}", "-cp", joined(tools.libraries)]
    run("-cp", joined(tools.all), COMPILER, *options, "-d", str(classes), *map(str, sources))
    return [classes, *tools.libraries]


def run(*arguments: str) -> str:
    done = subprocess.run(("java", *arguments), capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_it_plays_every_scenario(tmp_path: Path) -> None:
    sources = [SOURCE / "main" / "kotlin" / "agentline" / f"{name}.kt" for name in PURE]
    classes = compile([*sources, SOURCE / "test" / "kotlin" / "agentline" / "Scenarios.kt"], tmp_path)
    shared = scenarios()
    played = run("-cp", joined(classes), "agentline.ScenariosKt", str(FOLDER))
    assert played.strip() == f"{len(shared)} scenarios, {sum(map(len, shared.values()))} steps"
