"""Programs that drive every public call, the model they are held against, and their parts."""
