"""Programs built from Go modules: kind and Helm always, Kubernetes and what it stands on where no registry
answers.

`k8s.io/kubernetes` cannot be installed by `go install`: its go.mod replaces its own libraries by directories
that no module holds. So a throw-away module requires it and replaces them by their published versions.
"""

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from sensorpipeline_dev import paths
from sensorpipeline_dev.cache import entry
from sensorpipeline_dev.errors import DevError
from sensorpipeline_dev.progress import Step, step
from sensorpipeline_dev.versions import Versions

KUBERNETES = "k8s.io/kubernetes"
KUBERNETES_COMMANDS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubeadm",
    "kubectl",
)


@dataclass(frozen=True)
class Program:
    """A program of one Go module.

    Attributes:
        name: the program's name, and its file's.
        module: the module that holds it.
        package: its main package.
        version: the module's version, without the leading v.
    """

    name: str
    module: str
    package: str
    version: str


def programs(versions: Versions) -> dict[str, Program]:
    """Every program that one module gives, by name."""
    tools = versions.tools
    unittest = "github.com/helm-unittest/helm-unittest"
    listed = [
        Program("kind", "sigs.k8s.io/kind", "sigs.k8s.io/kind", tools["kind"]),
        Program("helm", "helm.sh/helm/v3", "helm.sh/helm/v3/cmd/helm", tools["helm"]),
        Program(
            "kubeconform",
            "github.com/yannh/kubeconform",
            "github.com/yannh/kubeconform/cmd/kubeconform",
            tools["kubeconform"],
        ),
        Program("helm-unittest", unittest, f"{unittest}/cmd/helm-unittest", tools["helm-unittest"]),
        Program("etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3", versions.etcd),
        Program("coredns", "github.com/coredns/coredns", "github.com/coredns/coredns", versions.coredns),
    ]
    return {program.name: program for program in listed}


def ensure_program(program: Program) -> Path:
    """The program's file, built when it is not in the cache."""

    def make(partial: Path) -> None:
        with (
            step(f"{program.name} {program.version}") as running,
            TemporaryDirectory(dir=builds(), prefix="go-") as directory,
        ):
            module = Path(directory)
            require_module(running, module, program.module, f"v{program.version}")
            keep_replacements(running, module, program)
            go_build(running, module, partial / program.name, program.package)

    return entry(paths.BINARIES / f"{program.name}-v{program.version}", make) / program.name


def ensure_kubernetes(versions: Versions) -> Path:
    """The directory with Kubernetes' own programs, built when it is not in the cache."""
    version = f"v{versions.kubernetes}"

    def make(partial: Path) -> None:
        title = f"Kubernetes {versions.kubernetes} from source, about 5 minutes"
        with step(title) as running, TemporaryDirectory(dir=builds(), prefix="go-") as directory:
            module = Path(directory)
            require_module(running, module, KUBERNETES, version)
            replace_staging(running, module, version)
            packages = [f"{KUBERNETES}/cmd/{command}" for command in KUBERNETES_COMMANDS]
            imports = "\n".join(f'\t_ "{package}"' for package in packages)
            (module / "tools.go").write_text(f"//go:build tools\n\npackage tools\n\nimport (\n{imports}\n)\n")
            running.run(["go", "mod", "tidy", "-e"], cwd=module, env=go_environment())
            go_build(running, module, partial, *packages, flags=version_flags(versions.kubernetes))

    return entry(paths.BINARIES / f"kubernetes-{version}", make)


def builds() -> Path:
    """Where throw-away modules live while they are needed."""
    paths.BUILDS.mkdir(parents=True, exist_ok=True)
    return paths.BUILDS


def require_module(running: Step, directory: Path, module: str, version: str) -> None:
    """Make a throw-away module that requires another one."""
    running.run(["go", "mod", "init", "build"], cwd=directory, env=go_environment())
    running.run(["go", "mod", "edit", f"-require={module}@{version}"], cwd=directory, env=go_environment())


def read_go_mod(directory: Path, module: str, version: str) -> str:
    """The go.mod of a published module.

    Raises:
        DevError: when the module cannot be had.
    """
    command = ["go", "mod", "download", "-json", f"{module}@{version}"]
    done = subprocess.run(command, cwd=directory, env=go_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DevError(
            f"{module} {version} cannot be had: {done.stderr.strip()}",
            advice="Check that the Go module proxy of this machine answers.",
        )
    return Path(json.loads(done.stdout)["GoMod"]).read_text()


def keep_replacements(running: Step, module: Path, program: Program) -> None:
    """Replace what the program's own go.mod replaces, which Go leaves aside for a module that is only required."""
    for old, new in published_replacements(read_go_mod(module, program.module, f"v{program.version}")):
        running.run(["go", "mod", "edit", f"-replace={old}={new}"], cwd=module, env=go_environment())


def published_replacements(go_mod: str) -> list[tuple[str, str]]:
    """The replacements of a go.mod by other published modules, each side as module@version."""
    pattern = r"^\s*(?:replace\s+)?(\S+)(?:\s+(v\S+))?\s+=>\s+([^.\s]\S*)\s+(v\S+)"
    found = re.findall(pattern, go_mod, re.MULTILINE)
    return [(f"{old}@{was}" if was else old, f"{new}@{version}") for old, was, new, version in found]


def replace_staging(running: Step, module: Path, version: str) -> None:
    """Replace the libraries that Kubernetes keeps in its own tree by their published modules, v1.34.4 → v0.34.4."""
    libraries = staging_libraries(read_go_mod(module, KUBERNETES, version))
    published = f"v0.{version.partition('.')[2]}"
    running.run(
        ["go", "mod", "edit", *[f"-replace={library}={library}@{published}" for library in libraries]],
        cwd=module,
        env=go_environment(),
    )


def staging_libraries(go_mod: str) -> list[str]:
    """The modules that a go.mod replaces by directories below ./staging."""
    return sorted(set(re.findall(r"^\s*(?:replace\s+)?(\S+)(?:\s+v\S+)?\s+=>\s+\./staging/", go_mod, re.MULTILINE)))


def version_flags(version: str) -> str:
    """Linker flags that tell Kubernetes' programs which version they are; kubeadm and kind rely on it."""
    major, minor, _ = version.split(".")
    values = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    libraries = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(f"-X {library}.{name}={value}" for library in libraries for name, value in values.items())


def go_build(running: Step, module: Path, output: Path, *packages: str, flags: str = "") -> None:
    """Build static, stripped programs."""
    target = f"{output}/" if len(packages) > 1 else str(output)
    command = ["go", "build", "-mod=mod", "-trimpath", "-ldflags", f"-s -w {flags}".strip(), "-o", target, *packages]
    running.run(command, cwd=module, env=go_environment())


def go_environment() -> dict[str, str]:
    """Static programs, whatever the machine's settings."""
    return {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
