"""Oxford 102 Flowers: `jpg/image_00001.jpg`, `imagelabels.mat` (1 to 102) and `setid.mat`."""

from __future__ import annotations

from pathlib import Path

from visurf.benchmarks import Benchmark
from visurf.benchmarks.classification import Subject, class_sample, load_listed, read_mat
from visurf.benchmarks.rows import RowReport, check_split, find, finish
from visurf.types import DataError, ImageRef, Sample

SPLITS = ("train", "val", "test", "visual_rft_test")
_SET = {"train": "trnid", "val": "valid", "test": "tstid"}
SUBJECT = Subject("plant", "species")

# The distribution carries no names; label k is the k-th of these.
NAMES = (
    *("pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "english marigold"),
    *("tiger lily", "moon orchid", "bird of paradise", "monkshood", "globe thistle", "snapdragon", "colts foot"),
    *("king protea", "spear thistle", "yellow iris", "globe-flower", "purple coneflower", "peruvian lily"),
    *("balloon flower", "giant white arum lily", "fire lily", "pincushion flower", "fritillary", "red ginger"),
    *("grape hyacinth", "corn poppy", "prince of wales feathers", "stemless gentian", "artichoke"),
    *("sweet william", "carnation", "garden phlox", "love in the mist", "mexican aster", "alpine sea holly"),
    *("ruby-lipped cattleya", "cape flower", "great masterwort", "siam tulip", "lenten rose", "barbeton daisy"),
    *("daffodil", "sword lily", "poinsettia", "bolero deep blue", "wallflower", "marigold", "buttercup"),
    *("oxeye daisy", "common dandelion", "petunia", "wild pansy", "primula", "sunflower", "pelargonium"),
    *("bishop of llandaff", "gaura", "geranium", "orange dahlia", "pink-yellow dahlia", "cautleya spicata"),
    *("japanese anemone", "black-eyed susan", "silverbush", "californian poppy", "osteospermum"),
    *("spring crocus", "bearded iris", "windflower", "tree poppy", "gazania", "azalea", "water lily", "rose"),
    *("thorn apple", "morning glory", "passion flower", "lotus", "toad lily", "anthurium", "frangipani"),
    *("clematis", "hibiscus", "columbine", "desert-rose", "tree mallow", "magnolia", "cyclamen", "watercress"),
    *("canna lily", "hippeastrum", "bee balm", "ball moss", "foxglove", "bougainvillea", "camellia", "mallow"),
    *("mexican petunia", "bromelia", "blanket flower", "trumpet creeper", "blackberry lily"),
)


def load(root: Path, split: str, *, test_list: Path | None = None, report: RowReport | None = None) -> list[Sample]:
    """One sample per picture of a split.

    Args:
        root: Holds the two .mat files and `jpg/`, directly or in `flowers-102/` or `oxford_flowers/`.
        split: train, val and test are official (test is the large one); `visual_rft_test` is another division of the same
            pictures, a third of which are official train or val.
        test_list: For `visual_rft_test`: its list of image, label and name.
        report: Counts what is bad.
    """
    check_split(split, SPLITS, "Flowers102")
    report = report if report is not None else RowReport()
    if split == "visual_rft_test":
        return load_listed(root, test_list, NAMES, SUBJECT, report)
    folder = find(root, ("setid.mat", "flowers-102/setid.mat", "oxford_flowers/setid.mat"), "setid.mat").parent
    labels = read_mat(folder / "imagelabels.mat", "labels")
    samples = []
    for number in sorted(int(n) for n in read_mat(folder / "setid.mat", _SET[split])):
        with report.row(number):
            if not 1 <= number <= len(labels) or not 1 <= int(labels[number - 1]) <= len(NAMES):
                raise DataError(f"{folder / 'setid.mat'}: picture {number} has no label from 1 to {len(NAMES)}")
            label = int(labels[number - 1])
            picture = ImageRef(folder / "jpg" / f"image_{number:05d}.jpg")
            samples.append(class_sample(f"image_{number:05d}", picture, label - 1, NAMES[label - 1], SUBJECT))
    return finish(samples, folder)


BENCHMARK = Benchmark(
    name="flowers102",
    task="classification",
    splits=SPLITS,
    load=load,
    metrics=("accuracy",),
    source="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    licence="none stated (research)",
    notes="the official test split and the one Visual-RFT reports on are different pictures",
)
