"""The metrics once more, in float64, plainly and slowly: what the fast ones are tested against."""

import math

import numpy as np


def depth_errors(p, g, valid):
    p, g = p[valid].astype(float), g[valid].astype(float)
    e = np.log(p) - np.log(g)
    worst = np.maximum(p / g, g / p)
    return {
        "abs_rel": np.mean(np.abs(p - g) / g),
        "sq_rel": np.mean((p - g) ** 2 / g),
        "rmse": np.sqrt(np.mean((p - g) ** 2)),
        "rmse_log": np.sqrt(np.mean(e**2)),
        "log10": np.mean(np.abs(np.log10(p) - np.log10(g))),
        "silog": 100 * np.std(e),
        **{f"delta{k}": np.mean(worst < 1.25**k) for k in (1, 2, 3)},
    }


def boundary_f1(p, g, valid):
    """Steps of inverse depth to the right, left, down and up, one threshold after the other."""
    views = [(np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])]
    views += [(b, a) for a, b in views]
    p, g = 1 / p.astype(float), 1 / np.where(valid, g, 1).astype(float)
    thresholds = [1.05 + 0.2 * k / 9 for k in range(10)]
    total = 0.0
    for t in thresholds:
        precision = recall = 0.0
        for a, b in views:
            pair = valid[a] & valid[b]
            found, true = pair & (p[a] / p[b] > t), pair & (g[a] / g[b] > t)
            precision += (found & true).sum() / max(found.sum(), 1) / 4
            recall += (found & true).sum() / max(true.sum(), 1) / 4
        if precision + recall:
            total += t * 2 * precision * recall / (precision + recall)
    return total / sum(thresholds)


def soft_edge_error(p, g, valid, stereo):
    h, w = g.shape
    errors = []
    for y in range(h):
        for x in range(w):
            around = [
                (dy, dx)
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
                if 0 <= y + dy < h and 0 <= x + dx < w and g[y + dy, x + dx] > 0
            ]
            steps = [
                abs(stereo / g[y + dy, x + dx] - stereo / g[y, x])
                for dy, dx in around
                if abs(dy) + abs(dx) == 1 and valid[y, x]
            ]
            if valid[y, x] and max(steps, default=0) > 1:
                errors.append(min(abs(float(g[y + dy, x + dx]) - p[y, x]) for dy, dx in around))
    return np.mean(errors) if errors else 0.0


def seams(p, g, valid, grid):
    across, elsewhere = [], []
    h, w = g.shape
    for y in range(h):
        for x in range(w):
            for yy, xx in ((y + 1, x), (y, x + 1)):
                if yy < h and xx < w and valid[y, x] and valid[yy, xx]:
                    step = math.log(p[yy, xx] / p[y, x]) - math.log(g[yy, xx] / g[y, x])
                    here = any(
                        (top <= y < top + grid.patch[0]) != (top <= yy < top + grid.patch[0])
                        or (left <= x < left + grid.patch[1]) != (left <= xx < left + grid.patch[1])
                        for top, left in grid.origins
                    )
                    (across if here else elsewhere).append(abs(step))
    return {"seam": np.mean(across), "seam_elsewhere": np.mean(elsewhere)}


def pseudo_normals(depth, valid, intrinsics, reach=2, gate=0.05):
    """A plane through the 1/depth of each window by least squares, 0 where under 5 points lie."""
    h, w = depth.shape
    fx, fy, cx, cy = map(float, intrinsics)
    found = np.zeros((h, w, 3))
    for y in range(h):
        for x in range(w):
            if not valid[y, x]:
                continue
            z = 1 / float(depth[y, x])
            rows = [
                (xx + 0.5, yy + 0.5, 1.0, 1 / float(depth[yy, xx]))
                for yy in range(max(y - reach, 0), min(y + reach + 1, h))
                for xx in range(max(x - reach, 0), min(x + reach + 1, w))
                if valid[yy, xx] and abs(1 / float(depth[yy, xx]) - z) <= gate / depth[yy, xx]
            ]
            points = np.array(rows)
            if len(points) < 5 or np.linalg.matrix_rank(points[:, :3]) < 3:
                continue
            a, b, c = np.linalg.lstsq(points[:, :3], points[:, 3], rcond=None)[0]
            m = np.array([fx * a, fy * b, c + a * cx + b * cy])
            found[y, x] = -m / np.linalg.norm(m)
    return found


def angles(a, b, known):
    a, b = a[known].astype(float), b[known].astype(float)
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def normal_scores(degrees):
    return {
        "mean": np.mean(degrees),
        "median": np.median(degrees),
        "rmse": np.sqrt(np.mean(degrees**2)),
        **{f"below_{t:g}": 100 * np.mean(degrees < t) for t in (5, 7.5, 11.25, 22.5, 30)},
    }


def d3r(p, g, valid, points, pairs):
    def order(a, b, ratio):
        return 1 if a / b > ratio else -1 if a / b < 1 / ratio else 0

    errors = []
    for i, j in pairs:
        a, b = tuple(points[i]), tuple(points[j])
        if valid[a] and valid[b] and order(g[a], g[b], 1.1):
            errors.append(abs(order(g[a], g[b], 1.01) - order(p[a], p[b], 1.01)))
    return np.mean(errors) if errors else math.nan


def consistency(patches, windows, most):
    """Every pixel of every window that the window to the left or above sees too."""
    (h, w), columns, differences = windows.patch, len(windows.lefts), []
    for k in range(windows.count):
        before = [k - 1] * (k % columns > 0) + [k - columns] * (k >= columns)
        for other in before:
            dy, dx = windows.origins[k] - windows.origins[other]
            for y in range(h - dy):
                for x in range(w - dx):
                    a, b = patches[k, y, x], patches[other, y + dy, x + dx]
                    differences.append(abs(min(a, most) - min(b, most)))
    return np.mean(differences)


def pieces(mask):
    """How many pieces a mask is in, counted by flooding one after the other."""
    left, count = {tuple(at) for at in np.argwhere(mask)}, 0
    while left:
        count, wet = count + 1, [left.pop()]
        while wet:
            y, x = wet.pop()
            for at in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if at in left:
                    left.remove(at)
                    wet.append(at)
    return count
