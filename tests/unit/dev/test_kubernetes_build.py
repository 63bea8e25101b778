"""What is read from other modules' go.mod files."""

from sensorpipeline_dev.kubernetes_build import published_replacements, staging_libraries

GO_MOD = """module example.org/m

require k8s.io/api v0.0.0

replace example.org/old v0.3.2 => example.org/new v0.4.0

replace (
	k8s.io/api => ./staging/src/k8s.io/api
	example.org/any => example.org/fork v1.0.0
)
"""


def test_replacements_by_published_modules_are_kept_with_their_versions() -> None:
    assert published_replacements(GO_MOD) == [
        ("example.org/old@v0.3.2", "example.org/new@v0.4.0"),
        ("example.org/any", "example.org/fork@v1.0.0"),
    ]


def test_replacements_by_staging_folders_are_those_of_kubernetes_own_libraries() -> None:
    assert staging_libraries(GO_MOD) == ["k8s.io/api"]
