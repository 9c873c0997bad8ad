"""The metrics once more, in float64, plain and slow: the fast ones are tested against them."""

import math

import numpy as np


def depth_errors(pred, depth, valid):
    p = pred[valid].astype(float)
    g = depth[valid].astype(float)
    log_error = np.log(p) - np.log(g)
    ratio = np.maximum(p / g, g / p)
    return {
        "abs_rel": np.mean(np.abs(p - g) / g),
        "sq_rel": np.mean((p - g) ** 2 / g),
        "mae": np.mean(np.abs(p - g)),
        "rmse": np.sqrt(np.mean((p - g) ** 2)),
        "rmse_log": np.sqrt(np.mean(log_error**2)),
        "log10": np.mean(np.abs(np.log10(p) - np.log10(g))),
        "silog": 100 * np.std(log_error),
        "delta1": np.mean(ratio < 1.25),
        "delta2": np.mean(ratio < 1.25**2),
        "delta3": np.mean(ratio < 1.25**3),
    }


def boundary_f1(pred, depth):
    """Steps of inverse depth to the right, left, down and up, one threshold after the other.

    The sky is infinitely far, a hole has depth 0.
    """
    p = 1 / pred.astype(float)
    valid = depth > 0
    g = 1 / np.where(valid, depth, 1).astype(float)
    g = np.where(np.isinf(depth), 1e-300, g)
    left, right = np.s_[:, :-1], np.s_[:, 1:]
    top, bottom = np.s_[:-1], np.s_[1:]
    directions = [(right, left), (left, right), (bottom, top), (top, bottom)]
    thresholds = [1.05 + 0.2 * k / 9 for k in range(10)]
    total = 0.0
    for threshold in thresholds:
        precision = 0.0
        recall = 0.0
        for a, b in directions:
            pair = valid[a] & valid[b]
            predicted = pair & (p[a] / p[b] > threshold)
            true = pair & (g[a] / g[b] > threshold)
            both = (predicted & true).sum()
            precision += both / max(predicted.sum(), 1) / 4
            recall += both / max(true.sum(), 1) / 4
        if precision + recall > 0:
            total += threshold * 2 * precision * recall / (precision + recall)
    return total / sum(thresholds)


def soft_edge_error(pred, depth, valid, stereo):
    height, width = depth.shape
    errors = []
    for y in range(height):
        for x in range(width):
            if not valid[y, x]:
                continue
            nearest = math.inf
            largest_step = 0.0
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    inside = 0 <= y + dy < height and 0 <= x + dx < width
                    if not inside or depth[y + dy, x + dx] <= 0:
                        continue
                    other = float(depth[y + dy, x + dx])
                    nearest = min(nearest, abs(other - pred[y, x]))
                    if abs(dy) + abs(dx) == 1:
                        step = abs(stereo / other - stereo / depth[y, x])
                        largest_step = max(largest_step, step)
            if largest_step > 1:
                errors.append(nearest)
    return np.mean(errors) if errors else 0.0


def seams(pred, depth, valid, grid):
    height, width = depth.shape
    patch_height, patch_width = grid.patch
    on_border = []
    elsewhere = []
    for y in range(height):
        for x in range(width):
            for y2, x2 in ((y + 1, x), (y, x + 1)):
                if y2 == height or x2 == width or not (valid[y, x] and valid[y2, x2]):
                    continue
                pred_step = math.log(pred[y2, x2] / pred[y, x])
                true_step = math.log(depth[y2, x2] / depth[y, x])
                crosses = False
                for top, left in grid.origins:
                    rows = range(top, top + patch_height)
                    columns = range(left, left + patch_width)
                    if (y in rows) != (y2 in rows) or (x in columns) != (x2 in columns):
                        crosses = True
                errors = on_border if crosses else elsewhere
                errors.append(abs(pred_step - true_step))
    return {"seam": np.mean(on_border), "seam_elsewhere": np.mean(elsewhere)}


def pseudo_normals(depth, valid, intrinsics, reach=2, gate=0.05):
    """A plane through the 1/depth of each window by least squares, 0 with fewer than 5 points."""
    height, width = depth.shape
    fx, fy, cx, cy = map(float, intrinsics)
    normals = np.zeros((height, width, 3))
    for y in range(height):
        for x in range(width):
            if not valid[y, x]:
                continue
            z = 1 / float(depth[y, x])
            points = []
            for y2 in range(max(y - reach, 0), min(y + reach + 1, height)):
                for x2 in range(max(x - reach, 0), min(x + reach + 1, width)):
                    if not valid[y2, x2]:
                        continue
                    z2 = 1 / float(depth[y2, x2])
                    if abs(z2 - z) <= gate / depth[y2, x2]:
                        points.append((x2 + 0.5, y2 + 0.5, 1.0, z2))
            points = np.array(points)
            if len(points) < 5 or np.linalg.matrix_rank(points[:, :3]) < 3:
                continue
            a, b, c = np.linalg.lstsq(points[:, :3], points[:, 3], rcond=None)[0]
            plane = np.array([fx * a, fy * b, c + a * cx + b * cy])
            normals[y, x] = -plane / np.linalg.norm(plane)
    return normals


def angles(a, b, known):
    """Degrees between known vectors."""
    a = a[known].astype(float)
    b = b[known].astype(float)
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def normal_scores(degrees):
    scores = {
        "mean": np.mean(degrees),
        "median": np.median(degrees),
        "rmse": np.sqrt(np.mean(degrees**2)),
    }
    for threshold in (5, 7.5, 11.25, 22.5, 30):
        scores[f"below_{threshold:g}"] = 100 * np.mean(degrees < threshold)
    return scores


def disagreement(pred, depth, valid, points, pairs, true_ratio=1.1, ratio=1.01):
    """D3R between neighbours, and ORD between random points with other ratios."""

    def order(a, b, ratio):
        if a / b > ratio:
            return 1
        if a / b < 1 / ratio:
            return -1
        return 0

    errors = []
    for i, j in pairs:
        a = tuple(points[i])
        b = tuple(points[j])
        if valid[a] and valid[b] and order(depth[a], depth[b], true_ratio) != 0:
            errors.append(abs(order(depth[a], depth[b], ratio) - order(pred[a], pred[b], ratio)))
    return np.mean(errors) if errors else math.nan


def stretched_depths(pred, depth, valid):
    """The maps that BoostingMonocularDepth compares, and where; the nearest pixel drops out."""
    g = np.where(valid, depth, np.nan).astype(float)
    true_disparity = 1 / g / np.nanmax(1 / g)
    low = np.nanmin(true_disparity)
    disparity = 1 / pred.astype(float)
    seen = disparity[depth > 0]
    disparity = (disparity - seen.min()) / (seen.max() - seen.min())
    stretched = 1 / (low + (1 - low) * disparity)
    stretched = (stretched - 1) / (1 / low - 1)
    true = (g - np.nanmin(g)) / (np.nanmax(g) - np.nanmin(g))
    return stretched + 1e-15, np.where(valid, true, 1) + 1e-15, valid & (true > 0)


def l1_fit(x, y, truncate, with_shift):
    """Every line through two points, or through one and the origin, tried one after the other."""
    best = (math.inf, 0, 0)
    for i in range(len(x)):
        for j in range(len(x)) if with_shift else (None,):
            if with_shift:
                if x[i] == x[j]:
                    continue
                scale = (y[i] - y[j]) / (x[i] - x[j])
                shift = y[i] - scale * x[i]
            else:
                scale, shift = y[i] / x[i], 0
            error = np.minimum(np.abs(scale * x + shift - y) / y, truncate).sum()
            best = min(best, (error, scale, shift))
    return best[1:]


def consistency(patches, windows, max_value):
    """Differences at every pixel that a window shares with the one to its left or above it."""
    height, width = windows.patch
    columns = len(windows.lefts)
    differences = []
    for k in range(windows.count):
        neighbours = []
        if k % columns > 0:
            neighbours.append(k - 1)
        if k >= columns:
            neighbours.append(k - columns)
        for other in neighbours:
            dy, dx = windows.origins[k] - windows.origins[other]
            for y in range(height - dy):
                for x in range(width - dx):
                    a = min(patches[k, y, x], max_value)
                    b = min(patches[other, y + dy, x + dx], max_value)
                    differences.append(abs(a - b))
    return np.mean(differences)


def f1_within(pred, depth, valid, radius):
    """MoGe's boundary F1: each pixel against all neighbours, one threshold after the other."""
    height, width = depth.shape
    thresholds = [0.05 + 0.2 * k / 9 for k in range(10)]
    total = 0.0
    for threshold in thresholds:
        both = true = predicted = 0
        for y in range(radius, height - radius):
            for x in range(radius, width - radius):
                for y2 in range(y - radius, y + radius + 1):
                    for x2 in range(x - radius, x + radius + 1):
                        near = (y2 - y) ** 2 + (x2 - x) ** 2 <= radius**2
                        if not near or not (valid[y, x] and valid[y2, x2]):
                            continue
                        is_true = depth[y2, x2] / depth[y, x] > 1 + threshold
                        is_predicted = pred[y2, x2] / pred[y, x] > 1 + threshold
                        both += is_true and is_predicted
                        true += is_true
                        predicted += is_predicted
        if both:
            precision = both / predicted
            recall = both / true
            total += threshold * 2 * precision * recall / (precision + recall)
    return total / sum(thresholds)


def boundary_recall(disparity, matte):
    """Depth Pro's recall on mattes: four directions, runs of steps thinned pixel by pixel."""
    thresholds = [1.05 + 0.2 * k / 9 for k in range(10)]
    total = 0.0
    for threshold in thresholds:
        for turn in range(4):
            values = np.rot90(disparity, turn).astype(float)
            inside = np.rot90(matte, turn)
            found = true = 0
            for row, row_inside in zip(values, inside, strict=True):
                ratios = row[1:] / row[:-1]
                thinned = np.zeros(len(ratios), bool)
                x = 0
                while x < len(ratios):
                    end = x
                    while end < len(ratios) and ratios[end] > threshold:
                        end += 1
                    if end > x:
                        thinned[x + int(np.argmax(ratios[x:end]))] = True
                    x = max(end, x + 1)
                edges = row_inside[1:] & ~row_inside[:-1]
                found += (thinned & edges).sum()
                true += edges.sum()
            total += threshold * found / max(true, 1) / 4
    return total / sum(thresholds)


def plane_errors(pred, depth, labels, normals, intrinsics):
    """Mean flatness in centimetres and orientation in degrees over the planes."""
    fx, fy, cx, cy = map(float, intrinsics)
    errors = []
    for number, normal in enumerate(normals, 1):
        ys, xs = np.nonzero(labels == number)
        values = pred[ys, xs].astype(float)
        values *= np.median(depth[ys, xs]) / np.median(values)
        points = []
        for y, x, z in zip(ys, xs, values, strict=True):
            points.append([(x + 0.5 - cx) * z / fx, (y + 0.5 - cy) * z / fy, z])
        points = np.array(points) - np.mean(points, 0)
        fitted = np.linalg.svd(points, full_matrices=False)[2][2]
        angle = np.degrees(np.arccos(min(abs(fitted @ normal), 1)))
        errors.append((100 * np.std(points @ fitted), angle))
    return np.mean(errors, 0).tolist()
