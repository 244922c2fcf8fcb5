"""The dialect of the Open Inference Protocol, version 2 (KServe, Triton, MLServer)."""
