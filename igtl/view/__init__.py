"""A live page in a browser: what links, recordings and programs send (`igtl[view]`).

    with igtl.View(port=8080) as view:
        print(view.url)
        view.follow(link)

`feed` keeps the newest of each stream, without I/O; `flow` decides what one browser gets next and
in what quality; `wire` has the bytes of poses and images, `shapes` those of volumes and meshes,
`words` the lines of the log; `page` is the HTTP and WebSocket application; `sources` and `playing`
are the threads that receive from links and recordings. The page itself is in `static/`.
"""

from igtl.view.view import View

__all__ = ["View"]
