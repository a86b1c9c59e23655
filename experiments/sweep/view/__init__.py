"""What a sweep is doing, from its files alone: followed, summed up, shown; nothing is written."""
