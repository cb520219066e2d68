"""What benchmarks/peers.py is made of: who takes part, what is measured, and how processes are accounted for."""
