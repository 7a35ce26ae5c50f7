#!/bin/bash
# Guess:     optax.join_schedules calls the schedule behind a boundary from that step on, with 0, 1, 2, ...; and a
#            linear schedule over no steps has its end value.
# Instead:   every schedule is called at every step, with negative numbers before its turn, and the answer is thrown away:
#            one that takes a root gives NaN there, which nothing shows until jax_debug_nans ends the run. And
#            linear_schedule(1.0, 0.0, 0) is 1.0 for ever.
# Versions:  optax 0.2.8, jax 0.10.2, 2026-11-29, on CPU
# Output:    at step 3 the schedule of step 10 on is asked for -7; the rate is 0.3
#            with jax_debug_nans: FloatingPointError
#            linear_schedule(1.0, 0.0, 0) at step 5: 1.0
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q optax==0.2.8 jax==0.10.2
cat > "$folder/show.py" <<'PY'
import jax
import jax.numpy as jnp
import optax

asked = []


def falling(step):
    asked.append(step)
    return 1 / jnp.sqrt(step + 1)


rate = optax.join_schedules([optax.linear_schedule(0.0, 1.0, 10), falling], [10])
value = float(rate(3))
print(f"at step 3 the schedule of step 10 on is asked for {asked[0]}; the rate is {value:.1f}")
with jax.debug_nans(True):
    try:
        rate(3)
        ended = "ok"
    except FloatingPointError as error:
        ended = type(error).__name__
print(f"with jax_debug_nans: {ended}")
end = float(optax.linear_schedule(1.0, 0.0, 0)(5))
print(f"linear_schedule(1.0, 0.0, 0) at step 5: {end}")
assert asked[0] == -7 and abs(value - 0.3) < 1e-6
assert ended == "FloatingPointError" and end == 1.0
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/show.py" 2>/dev/null
