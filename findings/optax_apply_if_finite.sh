#!/bin/bash
# Guess:     optax.apply_if_finite(tx, n) never lets a NaN into the parameters: after n of them in a row it stops, or goes
#            on leaving them out.
# Instead:   update n + 1 is applied, NaN and all, and so is each one after it, without a word.
# Versions:  optax 0.2.8, jax 0.10.2, 2026-11-29, on CPU
# Output:    parameters after each of 4 updates of NaN, n = 2: [0.0, 0.0, nan, nan]
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q optax==0.2.8 jax==0.10.2
cat > "$folder/show.py" <<'PY'
import math

import jax.numpy as jnp
import optax

tx = optax.apply_if_finite(optax.sgd(1.0), max_consecutive_errors=2)
params = jnp.float32(0)
state, seen = tx.init(params), []
for _ in range(4):
    updates, state = tx.update(jnp.float32(jnp.nan), state, params)
    params = optax.apply_updates(params, updates)
    seen.append(float(params))
print(f"parameters after each of 4 updates of NaN, n = 2: {seen}")
assert seen[:2] == [0, 0] and all(map(math.isnan, seen[2:]))
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/show.py"
