"""Front ends: processes that answer the inference address together, where `front_ends` is more than 1.

    client ──HTTP──▶ front end (one of N processes, one socket)      scheduler (the main process)
                     the same routes: parse, decode
                     plane.RemoteDataPlane ──▶ link ══ frames on a socketpair, large data in shared memory ══▶ desk ─▶ deployment
                     the same routes: encode     ◀══════════════════════════════════════════════ answers, one per request
    client ◀──HTTP── render

What needs a model's workers goes this way. Every other request (health, metadata, management on a shared port, …) is relayed as
HTTP, byte for byte, to a listener inside the scheduler (`relay`, `inner`), which has the whole application.

    scheduler   supervisor.FrontEnds   one listener to the outside: starts, replaces and ends the processes
                child.FrontChild       one process as the scheduler sees it
                desk.Desk, books       what one process asks for, counts and logs
                inner.InnerListener    answers what is relayed
    front end   process                its main function
                accepting              the listener, which shares the connections with the others
                link.Link              its end of the socket
                plane, remote          what the routes work with: data plane, metrics, keys, regions, places
                relay.Doorway          tells what is relayed, and relays it
    both        messages, wire, failures, outbox, reading, counters, adopting
"""
