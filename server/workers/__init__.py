"""Worker processes: bytes (`frame`), shared memory (`arena`), the child (`process`), the supervisor (`pool`).

messages   what parent and child say to each other      wire       requests and responses <-> messages
frame      how a message becomes bytes                  memory     one memfd, mapped
arena      slots for the requests' tensors              process    the child: main, `running` batch, `host`
placement  which instance runs where                    cores      what the machine offers
roster     the workers' states, pure                    backoff    when to try again, pure
pool       threads around the roster                    child      one process seen from the server, `logs`
hosting    answers to what models ask of the server     exits      exit codes and their meaning
"""
