"""What every test shares: strict numerics, simulated devices, and a cache that lives for one session."""

import jax

jax.config.update("jax_num_cpu_devices", 8)  # Sharding runs on a laptop.
jax.config.update("jax_cpu_enable_async_dispatch", False)  # Fewer cores than devices.
jax.config.update("jax_numpy_rank_promotion", "raise")  # No accidental broadcasts.
