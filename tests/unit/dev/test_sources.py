"""Where images come from: the choice, the versions, Debian's mirrors."""

import pytest
from sensorpipeline_dev.component_images import available_images
from sensorpipeline_dev.debian import mirrors, render_sources
from sensorpipeline_dev.errors import DevError
from sensorpipeline_dev.kubernetes_build import programs, staging_libraries, version_flags
from sensorpipeline_dev.node_image import names_by_component
from sensorpipeline_dev.source import REGISTRIES, Source, choose_source
from sensorpipeline_dev.versions import read_versions, tag


def test_auto_takes_the_registry_only_when_every_one_answers() -> None:
    assert choose_source("auto", probe=lambda url: True) is Source.REGISTRY
    assert choose_source("auto", probe=lambda url: url == REGISTRIES[0]) is Source.PACKAGES


@pytest.mark.parametrize("wish", ["registry", "packages"])
def test_an_explicit_wish_asks_nobody(wish: str) -> None:
    def probe(url: str) -> bool:
        raise AssertionError(url)

    assert choose_source(wish, probe=probe) == wish


def test_another_wish_is_refused() -> None:
    with pytest.raises(DevError, match="auto, registry or packages"):
        choose_source("docker")


def test_versions_are_complete_and_pinned() -> None:
    versions = read_versions()
    expected = {"mosquitto", "kafka", "mongodb", "prometheus", "alertmanager", "grafana", "python"}
    assert versions.images.keys() == expected
    assert all(tag(image) not in ("", "latest") and "/" not in tag(image) for image in versions.images.values())
    assert {"kind", "helm", "etcd", "coredns"} <= programs(versions).keys()


def test_grafana_alone_cannot_be_built_from_packages() -> None:
    versions = read_versions()
    registry, packages = (available_images(source, versions) for source in (Source.REGISTRY, Source.PACKAGES))
    assert registry.keys() - packages.keys() == {"grafana"}


def test_mirrors_of_both_formats() -> None:
    lines = "deb [signed-by=/k.gpg] http://one.example/debian bookworm main\n# deb http://no.example x main\n"
    paragraphs = (
        "Types: deb\nURIs: http://two.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\n"
        "Types: deb\nURIs: http://two.example/security\nSuites: bookworm-security\n"
    )
    known = mirrors([lines, paragraphs])
    assert known == {
        "bookworm": "http://one.example/debian",
        "bookworm-updates": "http://two.example/debian",
        "bookworm-security": "http://two.example/security",
    }
    assert "deb http://one.example/debian bookworm-backports main\n" in render_sources("bookworm", known)
    with pytest.raises(DevError, match="trixie"):
        render_sources("trixie", known)


def test_staging_libraries_of_kubernetes() -> None:
    lines = ["k8s.io/kms => ./staging/src/k8s.io/kms", "k8s.io/api => ./staging/src/k8s.io/api", "a => b v1"]
    go_mod = "replace (\n\t" + "\n\t".join(lines) + "\n)\n"
    assert staging_libraries(go_mod) == ["k8s.io/api", "k8s.io/kms"]


def test_version_flags_name_the_version() -> None:
    flags = version_flags("1.34.4")
    assert "-X k8s.io/component-base/version.gitVersion=v1.34.4" in flags
    assert "-X k8s.io/component-base/version.gitMinor=34" in flags


def test_names_by_component() -> None:
    listed = "registry.k8s.io/coredns/coredns:v1.12.1\nregistry.k8s.io/pause:3.10.1\n"
    assert names_by_component(listed) == {
        "coredns": "registry.k8s.io/coredns/coredns:v1.12.1",
        "pause": "registry.k8s.io/pause:3.10.1",
    }
