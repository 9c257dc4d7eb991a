"""A live page in a browser: what links, recordings and programs say (`igtl[view]`).

    with igtl.View(port=8080) as view:
        print(view.url)
        view.follow(link)

| module | what |
|---|---|
| `feed` | the newest of each stream, without I/O |
| `flow` | what one browser gets next, and when: the window, the quality of images |
| `wire` | the bytes of poses and images as the page reads them |
| `shapes` | volumes, meshes, points and trajectories as JSON and arrays |
| `words` | messages as lines of the log |
| `page` | the HTTP and WebSocket application: who may see what |
| `sources` | threads that receive from links |
| `playing` | a recording with a time bar, and the record button |
| `view` | `View`: all of it |
"""

from igtl.view.view import View

__all__ = ["View"]
