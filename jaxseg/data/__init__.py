"""From files on disk to batches: readers, writers, layouts, preprocessing, store, loader, augmentation."""
