"""A contract for each kind of part: what every one of them must do, inherited by a new one."""
