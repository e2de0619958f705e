"""Rules for stopping an idle machine, compared on one simulated month. No clock, network or GPU is used."""
