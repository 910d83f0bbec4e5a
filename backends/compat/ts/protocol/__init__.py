"""How TorchServe's front end and its workers speak. jitney's own workers speak otherwise; this is for programs that read or
write TorchServe's messages themselves."""
