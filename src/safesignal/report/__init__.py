"""Reports made of run folders (docs/run-folder.md), and of nothing but their files."""
