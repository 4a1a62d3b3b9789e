"""What every experiment stands on: kept cells, verdicts, one training loop, measures, a table."""
