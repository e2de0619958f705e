"""Runs every benchmark that this machine can run."""

from bench import acceptance, batching, requantise, restart, steps

for benchmark in (requantise, batching, steps, restart, acceptance):
    print(f"\n{(benchmark.__doc__ or '').splitlines()[0]}\n")
    benchmark.main()
