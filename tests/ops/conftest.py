"""How property tests run: the same examples each time in CI, new ones on a desk, where what failed is remembered."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("desk", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("desk"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") == "true" or "INTERNIMAGE_REQUIRE_KERNEL" in os.environ else "desk")
