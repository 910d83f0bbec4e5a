"""Front ends: processes that answer the inference address together, where `front_ends` is more than 1.

    client ──HTTP──▶ front end (one of N processes, one socket)      scheduler (the main process)
                     the same plans: parse, decode
                     RemoteDataPlane ──▶ SchedulerClient ══ frames on a socketpair, ══▶ FrontendSession ──▶ deployment
                                                            large data in shared memory
                     the same plans: encode     ◀═══════════════════════════════ answers, one per request
    client ◀──HTTP── render

What needs a model's workers goes this way. Every other request (health, metadata, management on a shared port, …) is relayed as
HTTP, byte for byte, to a listener inside the scheduler (`child.relay`, `relay_listener`), which has the whole application.

    scheduler   supervisor            `FrontEnds`, one listener to the outside: starts, replaces and ends the processes
                frontend_process      one process as the scheduler sees it
                session, records      what one process asks for; what it counts and logs
                relay_listener        answers what is relayed
    front end   child.main            its main function
    (`child`)   accepting_listener    the listener, which shares the connections with the others
                scheduler_client      its end of the socket
                remote_dataplane,     what the plans work with: data plane, metrics, keys, regions, places
                remote_services
                relay                 tells what is relayed, and relays it
    both        messages, wire, error_codec, send_queue, shared_counters, adopting_listener, peers
"""
