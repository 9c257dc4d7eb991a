"""What 3D Slicer's own code makes of files: this program runs in the Python of `ci/slicer`, which
has the package slicer-core, and answers a list of requests with a list of facts.

    python slicer_peer.py < requests.json > facts.json

It imports nothing of igtl. A request is {"do": ..., "path": ..., "to": ...}: the file is read by the
storage node of its kind, and written again to the path in "to" if there is one. Places are in RAS.
"""

from __future__ import annotations

import json
import sys

import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

scene = slicer.vtkMRMLScene()


def stored(data, storage, request):
    """Read a file into a node, and write it again where the request says so."""
    scene.AddNode(data)
    scene.AddNode(storage)
    storage.SetFileName(request["path"])
    if not storage.ReadData(data):
        raise RuntimeError("3D Slicer cannot read it")
    if request.get("to"):
        written = type(storage)()
        scene.AddNode(written)
        written.SetFileName(request["to"])
        written.SetUseCompression(request.get("compression", 1))
        if request.get("space"):
            written.SetCoordinateSystem({"RAS": 0, "LPS": 1}[request["space"]])
        data.SetAndObserveStorageNodeID(written.GetID())
        if not written.WriteData(data):
            raise RuntimeError("3D Slicer cannot write it")
    return data


def picture(node):
    image = node.GetImageData()
    values = vtk_to_numpy(image.GetPointData().GetScalars())
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return {
        "size": list(image.GetDimensions()), "type": str(values.dtype), "matrix": numbers(matrix),
        "components": image.GetNumberOfScalarComponents(),
        "values": values.ravel()[:2000].tolist(),
    }  # fmt: skip


def numbers(matrix):
    return [[matrix.GetElement(r, c) for c in range(4)] for r in range(4)]


def volume(request):
    kind = "Vector" if request.get("components", 1) > 1 else "Scalar"
    node = getattr(slicer, f"vtkMRML{kind}VolumeNode")()
    nrrd = request["path"].endswith((".nrrd", ".nhdr"))
    storage = (
        slicer.vtkMRMLNRRDStorageNode() if nrrd else slicer.vtkMRMLVolumeArchetypeStorageNode()
    )
    return picture(stored(node, storage, request))


def model(request):
    node = stored(slicer.vtkMRMLModelNode(), slicer.vtkMRMLModelStorageNode(), request)
    mesh = node.GetMesh()
    points = vtk_to_numpy(mesh.GetPoints().GetData())
    arrays = {}
    for data in (mesh.GetPointData(), mesh.GetCellData()):
        for n in range(data.GetNumberOfArrays()):
            array = data.GetArray(n)
            arrays[array.GetName()] = vtk_to_numpy(array).tolist()
    return {"points": points.tolist(), "cells": mesh.GetNumberOfCells(), "arrays": arrays}


def markups(request):
    old = request["path"].endswith(".fcsv")
    kind = request.get("kind", "Fiducial")
    node = getattr(slicer, f"vtkMRMLMarkups{kind}Node")()
    name = "vtkMRMLMarkupsFiducialStorageNode" if old else "vtkMRMLMarkupsJsonStorageNode"
    stored(node, getattr(slicer, name)(), request)
    places = []
    for n in range(node.GetNumberOfControlPoints()):
        place = [0.0] * 3
        node.GetNthControlPointPosition(n, place)
        places.append({
            "name": node.GetNthControlPointLabel(n), "place": place,
            "selected": bool(node.GetNthControlPointSelected(n)),
            "visible": bool(node.GetNthControlPointVisibility(n)),
        })  # fmt: skip
    return places


def sequence(request):
    node = slicer.vtkMRMLSequenceNode()
    if request.get("transforms"):
        storage = slicer.vtkMRMLLinearTransformSequenceStorageNode()
    else:
        storage = slicer.vtkMRMLVolumeSequenceStorageNode()
    stored(node, storage, request)
    frames = []
    for n in range(node.GetNumberOfDataNodes()):
        data = node.GetNthDataNode(n)
        facts = {"index": node.GetNthIndexValue(n)}
        if request.get("transforms"):
            matrix = vtk.vtkMatrix4x4()
            data.GetMatrixTransformToParent(matrix)
            facts["matrix"] = numbers(matrix)
        else:
            facts |= picture(data)
        frames.append(facts)
    return {"name": node.GetIndexName(), "unit": node.GetIndexUnit(), "frames": frames}


def answer(request):
    try:
        return {"volume": volume, "model": model, "markups": markups, "sequence": sequence}[
            request["do"]
        ](request)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    answers = [answer(request) for request in json.load(sys.stdin)]
    print("\n--- answers ---\n" + json.dumps(answers))
