"""The command line: each command says what it brings about, and names the parts that do it."""

import functools
import sys
from collections.abc import Callable
from typing import Annotated, ParamSpec

import typer
from rich.console import Console
from rich.table import Table

from sensorpipeline_dev import application_images, cluster, component_images, kubernetes_build, node_image, paths
from sensorpipeline_dev.cache import exclusive
from sensorpipeline_dev.errors import DevError
from sensorpipeline_dev.example import kubectl, show_example
from sensorpipeline_dev.host import ensure_engine
from sensorpipeline_dev.image_loading import load_images
from sensorpipeline_dev.kind_config import CONTEXT
from sensorpipeline_dev.operator import NAMESPACE, install_operator
from sensorpipeline_dev.progress import console, note, seconds, step_timer
from sensorpipeline_dev.source import Source, choose_source
from sensorpipeline_dev.versions import read_versions

P = ParamSpec("P")
app = typer.Typer(
    help="The local cluster for development and tests.", no_args_is_help=True, pretty_exceptions_enable=False
)
cluster_app = typer.Typer(help="The kind cluster.", no_args_is_help=True)
app.add_typer(cluster_app, name="cluster")

Images = Annotated[str, typer.Option(envvar="IMAGES", help="Where images come from: auto, registry or packages.")]


def alone(command: Callable[P, None]) -> Callable[P, None]:
    """Run one such command at a time on this machine: they share the cache, the engine and the cluster."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        with exclusive(paths.CACHE / "lock", waiting=lambda: note("Waiting for another sensorpipeline-dev to finish")):
            command(*args, **kwargs)

    return wrapped


def told(command: Callable[P, None]) -> Callable[P, None]:
    """Show what went wrong and what to do about it, without a traceback."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except DevError as error:
            console.print(f"[bold red]Error:[/bold red] {error}", markup=True)
            if error.advice:
                console.print(f"[bold]What to do:[/bold] {error.advice}")
            sys.exit(1)

    return wrapped


@cluster_app.command("up")
@told
@alone
def cluster_up(images: Images = "auto") -> None:
    """Bring up the cluster with all images; on a running one, only what changed."""
    bring_up(images)


def bring_up(images: str) -> None:
    """Host, node image, cluster, component images, storage, application images."""
    with step_timer() as elapsed:
        versions = read_versions()
        source = choose_source(images)
        console.print(f"Images come from [bold]{source}[/bold]; cache: {paths.CACHE}")
        engine_started = ensure_engine()
        image = node_image.ensure_node_image(source, versions)
        kind = cluster.ensure_tools(source, versions, image=image)
        components = component_images.ensure_component_images(source, versions)
        cluster.ensure_cluster(kind, image, source, engine_started=engine_started)
        cluster.wait_until_ready()
        load_images(components)
        cluster.ensure_storage(source, versions.images["python"])
        bring_application_images(source, load=True)
        console.print(
            f"[green]The cluster is up[/green] after {seconds(elapsed())}: kubectl --context {CONTEXT} get pods -A"
        )


def bring_application_images(source: Source, *, load: bool) -> None:
    """Build our own images, write their names for the chart, and load them."""
    versions = read_versions()
    built = application_images.ensure_application_images(source, versions)
    application_images.write_image_values(application_images.image_values(versions, built))
    if load:
        load_images(list(built.values()))
    console.print(
        f"Application images: {application_images.describe(built)}; values for the chart: {paths.IMAGE_VALUES}"
    )


@cluster_app.command("down")
@told
@alone
def cluster_down() -> None:
    """Delete the cluster; images and the cache stay."""
    ensure_engine()
    cluster.delete_cluster(kubernetes_build.ensure_program(kubernetes_build.programs(read_versions())["kind"]))


@cluster_app.command("status")
@told
def cluster_status() -> None:
    """Show whether there is a cluster and what runs on it."""
    table = Table(show_header=False, box=None)
    for what, state in cluster.describe().items():
        table.add_row(what, state)
    Console().print(table)


@app.command("images")
@told
@alone
def images_command(images: Images = "auto") -> None:
    """Build our own images, and load them into the cluster when it runs."""
    ensure_engine()
    bring_application_images(choose_source(images), load=cluster.node_exists() and cluster.answers(patience_seconds=0))


@app.command("components")
@told
@alone
def components_command(images: Images = "auto") -> None:
    """Have the images of the components in the Docker engine, without a cluster."""
    ensure_engine()
    component_images.ensure_component_images(choose_source(images), read_versions())


@app.command("operator")
@told
@alone
def operator_command() -> None:
    """Install the operator with helm, or upgrade it to this source tree."""
    cluster.require_cluster()
    install_operator()


@app.command("up")
@told
@alone
def up_command(images: Images = "auto") -> None:
    """Bring up everything: the cluster, the operator and the example pipeline, and show its first results."""
    bring_up(images)
    install_operator()
    show_example()


@app.command("status")
@told
def status_command() -> None:
    """Show the cluster, the operator and the pipelines."""
    cluster_status()
    cluster.require_cluster()
    for arguments in (
        ("get", "pods", "-n", NAMESPACE),
        ("get", "sensorpipelines", "-A"),
        ("get", "pods", "-A", "-l", "app.kubernetes.io/part-of=sensorpipeline"),
    ):
        print(kubectl(*arguments))


@app.command("kubeconfig")
@told
def kubeconfig_command() -> None:
    """Print the path of the kubeconfig that has the cluster's context."""
    print(cluster.kubeconfig())


@app.command("tool")
@told
def tool_command(name: Annotated[str, typer.Argument(help="kind, helm, kubeconform or helm-unittest")]) -> None:
    """Print the path of a tool that is built from its Go module, building it when needed."""
    known = kubernetes_build.programs(read_versions())
    if name not in known:
        raise DevError(f"No tool {name}", advice=f"Known: {', '.join(sorted(known))}.")
    print(kubernetes_build.ensure_program(known[name]))


if __name__ == "__main__":
    app()
