"""Runs every benchmark that this machine can run."""

from bench import batching, requantise

for benchmark in (requantise, batching):
    print(f"\n{(benchmark.__doc__ or '').splitlines()[0]}\n")
    benchmark.main()
