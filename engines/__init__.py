"""What can run: one interface over runtimes; each loaded model in a worker process of its own."""
