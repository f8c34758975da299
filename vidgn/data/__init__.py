"""Reading videos: from annotation files to uint8 clips. Everything random is planned before a file is opened."""
