"""Side-by-side timings: figures that mean something on any machine are ratios taken within one run."""
