"""Where real images come from: one file a source; ``sagan_base.data.load_data`` chooses among them by name."""
