"""How jitney's processes talk: frames over sockets, tensors in shared memory, one thread that reads for all."""
