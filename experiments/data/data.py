"""`data`: a source of images, and what is done to them before anything is learnt from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from experiments.data.corrupt import CLEAN, Corrupt, spoil
from experiments.data.dataset import Dataset, Source, Split
from experiments.data.gaussian import Gaussian
from experiments.data.resize import resize
from experiments.data.subset import subset
from fanin.seeds import generator


@dataclass(frozen=True)
class Data:
    """A source with the keys that all sources share.

    Parameters
    ----------
    source
        Where the images come from.
    n_train, n_test
        How many images to use, stratified by class; None: all.
    side
        Side length to which images are resized, 7 or more; None: as they are.
    seed
        Chooses the subsets and the corrupted images, and draws synthetic ones.
    corrupt
        A share of the *training* images to spoil, after subset and resizing.
    root
        Folder of data files; downloads go there.
    download
        Whether missing files may be fetched.
    """

    source: Source
    n_train: PositiveInt | None = None
    n_test: PositiveInt | None = None
    side: Annotated[int, Field(ge=7)] | None = None
    seed: int = 0
    corrupt: Corrupt = CLEAN
    root: str = "~/.cache/fanin"
    download: bool = True

    def __post_init__(self) -> None:
        sizes = {"n_train": self.source.train_size, "n_test": self.source.test_size}
        for name, size in sizes.items():
            wanted = getattr(self, name)
            if wanted is not None and wanted > size:
                raise ValueError(f"{name}={wanted}, but there are only {size} images")
        n_train = self.n_train or self.source.train_size
        if self.corrupt.share > 0 and self.corrupt.count(n_train) == 0:
            share = self.corrupt.share
            raise ValueError(f"corrupt.share={share} of {n_train} images is not even one image")
        if isinstance(self.source, Gaussian) and self.side is not None:
            raise ValueError(
                "side: resizing noise would change its variance and correlation; "
                "set image_side instead"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that `load` gives."""
        channels, height, width = self.source.shape
        return (channels, self.side or height, self.side or width)

    @property
    def n_classes(self) -> int | None:
        """Number of classes; None for regression."""
        return self.source.n_classes

    def prepare(self) -> None:
        """Make sure that the files are there and whole, fetching them if need be.

        Raises
        ------
        DataError
            A file is missing or damaged.
        """
        self.source.prepare(Path(self.root).expanduser(), self.download)

    def load(self) -> Dataset:
        """Read or draw the images, choose, resize and corrupt them.

        Raises
        ------
        DataError
            A file is missing or damaged.
        """
        whole = self.source.load(Path(self.root).expanduser(), self.download, self.seed)
        train = subset(whole.train, self.n_train, generator("train subset", self.seed))
        test = subset(whole.test, self.n_test, generator("test subset", self.seed))
        train, test = self._resized(train), self._resized(test)
        x = spoil(train.x, self.corrupt, generator("corrupt", self.seed))
        return replace(whole, train=Split(x, train.y), test=test)

    def _resized(self, split: Split) -> Split:
        return split if self.side is None else Split(resize(split.x, self.side), split.y)
