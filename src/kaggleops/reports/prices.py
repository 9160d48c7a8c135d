"""What Cloud Storage costs: the one table, with where and when it was read."""

from collections.abc import Mapping
from dataclasses import dataclass

from kaggleops.errors import UsageError


@dataclass(frozen=True)
class Allowance:
    """What one month has of everything, or costs nothing of it.

    Args:
        storage: bytes kept for a month.
        class_a: operations that write or list.
        class_b: operations that read.
    """

    storage: float
    class_a: float
    class_b: float


@dataclass(frozen=True)
class Prices:
    """A price list in US dollars, for the storage class Standard in a single region.

    Args:
        source: where it was read.
        read: when, by whoever copied it from there.
        storage: a gibibyte for a month, by region.
        class_a: 1,000 operations that write or list.
        class_b: 1,000 operations that read.
        egress: a gibibyte downloaded to anywhere (the first 10 TiB of a month).
        free: what costs nothing, of all buckets of a billing account together.
        free_egress: gibibytes downloaded that cost nothing, from North America.
        free_regions: in these regions only.
    """

    source: str
    read: str
    storage: Mapping[str, float]
    class_a: float
    class_b: float
    egress: float
    free: Allowance
    free_egress: int
    free_regions: frozenset[str]

    def storage_in(self, region: str) -> float:
        """Return what a gibibyte costs for a month in a region.

        Raises:
            UsageError: the list has no such region.
        """
        if region not in self.storage:
            raise UsageError(
                f"looking up the prices of {region}",
                "the price list has no such region",
                f"It has {', '.join(sorted(self.storage))}; see {self.source} for others.",
            )
        return self.storage[region]

    def storage_read(self, region: str) -> str:
        """Return when the price of storage in a region was read."""
        return self.read if region in self.free_regions else "2022 or later"

    def free_in(self, region: str) -> Allowance:
        """Return what costs nothing in a region."""
        return self.free if region in self.free_regions else Allowance(0, 0, 0)


@dataclass(frozen=True)
class MachinePrices:
    """What the server's machine costs, in US dollars.

    Args:
        source: where it was read.
        read: how old the copies are from which it was read.
        regions: where these prices hold, and one e2-micro that is no spot machine is free, with
            `free_disk` gibibytes of standard disk.
        e2_micro: an hour.
        disk: a gibibyte of standard disk for a month.
        free_disk: gibibytes.
        address: an hour of an external IPv4 address in use.
        nat: an hour of Cloud NAT for one machine, without the address that it uses.
        nat_data: a gibibyte through it.
        free_egress: gibibytes from the machine to the internet that are free.
    """

    source: str
    read: str
    regions: frozenset[str]
    e2_micro: float
    disk: float
    free_disk: int
    address: float
    nat: float
    nat_data: float
    free_egress: int


MIB = 2**20
GIB = 2**30

CLOUD_STORAGE = Prices(
    source="https://cloud.google.com/storage/pricing",
    # A dated transcript of that page has the operations, the free tier, the egress and the $0.020
    # (as $0.000027397 a gibibyte and hour, times 730). The other regions' figures come from older
    # copies of it (2022 and later), in which the $0.020 is the same.
    read="2026-09-20",
    storage={
        **dict.fromkeys(
            (
                "us-central1",
                "us-east1",
                "us-east5",
                "us-south1",
                "us-west1",
                "asia-east1",
                "europe-north1",
                "europe-west1",
            ),
            0.020,
        ),
        **dict.fromkeys(
            (
                "us-east4",
                "us-west2",
                "us-west3",
                "us-west4",
                "northamerica-northeast1",
                "northamerica-northeast2",
                "europe-central2",
                "europe-north2",
                "europe-west2",
                "europe-west3",
            ),
            0.023,
        ),
        "northamerica-south1": 0.026,
    },
    class_a=0.005,
    class_b=0.0004,
    egress=0.12,
    free=Allowance(storage=5 * GIB, class_a=5_000, class_b=50_000),
    free_egress=100,
    free_regions=frozenset({"us-central1", "us-east1", "us-west1"}),
)

COMPUTE_ENGINE = MachinePrices(
    source="https://cloud.google.com/compute/vm-instance-pricing, …/compute/disks-image-pricing, "
    "…/nat/pricing",
    read="from copies of 2024 to 2026",
    regions=CLOUD_STORAGE.free_regions,
    e2_micro=0.0084,
    disk=0.040,
    free_disk=30,
    address=0.005,
    nat=0.0014,
    nat_data=0.045,
    free_egress=1,
)
