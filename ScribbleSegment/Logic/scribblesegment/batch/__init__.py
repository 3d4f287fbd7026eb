"""A folder of images, segmented from context sets: resumable, on one computer or several."""
