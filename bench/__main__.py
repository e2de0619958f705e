"""Runs every benchmark that this machine can run."""

from bench import batching, requantise, restart

for benchmark in (requantise, batching, restart):
    print(f"\n{(benchmark.__doc__ or '').splitlines()[0]}\n")
    benchmark.main()
