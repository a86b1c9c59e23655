"""What people use today: plain scripts under Hydra's launchers, and the arithmetic alone."""
