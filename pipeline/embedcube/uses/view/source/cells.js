/** The map: cells of one zone in the CRS of the zone, drawn as squares; marks above them. */

import Map from 'ol/Map.js';
import View from 'ol/View.js';
import Layer from 'ol/layer/Layer.js';
import Projection from 'ol/proj/Projection.js';
import Zoom from 'ol/control/Zoom.js';
import {defaults as interactions} from 'ol/interaction/defaults.js';

const MARK_PX = 11;

export class Cells {
  constructor(target) {
    this.onClick = null;
    this.zone = null;
    this.marks = {cursor: null, like: [], unlike: [], hits: [], polygon: [], closed: false};
    this.onPainted = null;
    this.image_ = document.createElement('canvas');
    this.canvas_ = document.createElement('canvas');
    this.layer_ = new Layer({render: (frame) => this.render_(frame)});
    this.map_ = new Map({
      target,
      layers: [this.layer_],
      controls: [new Zoom({zoomInTipLabel: 'Zoom in', zoomOutTipLabel: 'Zoom out'})],
      interactions: interactions({
        doubleClickZoom: false, keyboard: false, altShiftDragRotate: false, pinchRotate: false,
      }),
    });
    this.map_.on('click', (event) => {
      const cell = this.cellAt(event.coordinate);
      if (cell) {
        this.onClick(cell);
      }
    });
  }

  /** Show the extent of another zone; its cells are not there yet. */
  open(zone) {
    this.zone = zone;
    const [xmin, ymin, xmax, ymax] = zone.bbox;
    const projection = new Projection({code: `zone:${zone.zone}`, units: 'pixels', extent: zone.bbox});
    const finest = zone.transform[0] / 64;
    this.map_.setView(new View({
      projection, minResolution: finest, maxResolution: (Math.max(xmax - xmin, ymax - ymin)) / 64,
      enableRotation: false, showFullExtent: true, constrainOnlyCenter: true, extent: zone.bbox,
    }));
    const [[top, bottom], [left, right]] = zone.processed;
    const [a, , c, , e, f] = zone.transform;
    this.map_.getView().fit([c + a * left, f + e * bottom, c + a * right, f + e * top], {padding: [12, 12, 12, 12]});
  }

  /** Draw new pixels: `paint` fills an Uint32Array of `rows` x `columns`. */
  draw(rows, columns, paint) {
    if (this.image_.width !== columns || this.image_.height !== rows) {
      [this.image_.width, this.image_.height] = [columns, rows];
      this.pixels_ = new ImageData(columns, rows);
    }
    paint(new Uint32Array(this.pixels_.data.buffer));
    this.image_.getContext('2d').putImageData(this.pixels_, 0, 0);
    this.drawn_ = true;
    this.map_.renderSync();
  }

  redraw() {
    this.layer_.changed();
  }

  /** Row and column of a coordinate; null outside of the zone. */
  cellAt([x, y]) {
    const [a, , c, , e, f] = this.zone.transform;
    const cell = {y: Math.floor((y - f) / e), x: Math.floor((x - c) / a)};
    const [rows, columns] = this.zone.shape;
    return cell.y >= 0 && cell.x >= 0 && cell.y < rows && cell.x < columns ? cell : null;
  }

  centre({y, x}) {
    const [a, , c, , e, f] = this.zone.transform;
    return [c + a * (x + 0.5), f + e * (y + 0.5)];
  }

  /** Bring a cell into view, if it is not. */
  follow(cell) {
    const [x, y] = this.centre(cell);
    const view = this.map_.getView();
    const [left, bottom, right, top] = view.calculateExtent(this.map_.getSize());
    if (x < left || x > right || y < bottom || y > top) {
      view.setCenter([x, y]);
    }
    this.redraw();
  }

  zoom(steps) {
    this.map_.getView().adjustZoom(steps, this.marks.cursor ? this.centre(this.marks.cursor) : undefined);
  }

  picture() {
    return new Promise((done) => this.canvas_.toBlob(done, 'image/png'));
  }

  render_(frame) {
    const {size: [width, height], pixelRatio: ratio, viewState: {center, resolution}} = frame;
    const canvas = this.canvas_;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
      Object.assign(canvas.style, {position: 'absolute', width: `${width}px`, height: `${height}px`});
    }
    const context = canvas.getContext('2d');
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.zone) {
      return canvas;
    }
    const toPixel = ([x, y]) => [(x - center[0]) / resolution + width / 2, (center[1] - y) / resolution + height / 2];
    this.drawCells_(context, toPixel, width, height);
    this.drawMarks_(context, toPixel, resolution);
    if (this.drawn_) {
      this.drawn_ = false;
      this.onPainted?.();
    }
    return canvas;
  }

  /** Only the cells that are seen are copied; each is a square of one colour. */
  drawCells_(context, toPixel, width, height) {
    const [xmin, ymin, xmax, ymax] = this.zone.bbox;
    const [left, top] = toPixel([xmin, ymax]);
    const [right, bottom] = toPixel([xmax, ymin]);
    context.strokeStyle = '#c9d1d9';
    context.strokeRect(left - 0.5, top - 0.5, right - left + 1, bottom - top + 1);
    const sizes = [[left, right, width, this.image_.width], [top, bottom, height, this.image_.height]];
    const [sx, sw, dx, dw, sy, sh, dy, dh] = sizes.flatMap(([from, to, seen, cells]) => {
      const pixels = (to - from) / cells;
      const first = Math.max(0, Math.floor(-from / pixels));
      const last = Math.min(cells, Math.ceil((seen - from) / pixels));
      return [first, Math.max(0, last - first), from + first * pixels, Math.max(0, last - first) * pixels];
    });
    if (sw && sh) {
      context.imageSmoothingEnabled = false;
      context.drawImage(this.image_, sx, sy, sw, sh, dx, dy, dw, dh);
    }
  }

  drawMarks_(context, toPixel, resolution) {
    const {cursor, like, unlike, hits, polygon, closed} = this.marks;
    const side = Math.max(this.zone.transform[0] / resolution, 3);
    context.font = 'bold 12px sans-serif';
    context.textAlign = 'center';
    context.textBaseline = 'middle';
    const disc = ([x, y], text, colour) => {
      context.beginPath();
      context.arc(x, y, MARK_PX, 0, 2 * Math.PI);
      context.fillStyle = colour;
      context.fill();
      context.lineWidth = 2;
      context.strokeStyle = '#fff';
      context.stroke();
      context.fillStyle = '#fff';
      context.fillText(text, x, y);
    };
    hits.forEach((hit, i) => disc(toPixel(this.centre(hit)), String(i + 1), '#1b1f24'));
    like.forEach((cell) => disc(toPixel(this.centre(cell)), '+', '#0a6b2b'));
    unlike.forEach((cell) => disc(toPixel(this.centre(cell)), '−', '#a40e26'));
    if (polygon.length) {
      context.beginPath();
      polygon.map(toPixel).forEach(([x, y]) => context.lineTo(x, y));
      if (closed) {
        context.closePath();
      }
      for (const [colour, lineWidth] of [['#fff', 4], ['#1b1f24', 2]]) {
        Object.assign(context, {strokeStyle: colour, lineWidth});
        context.stroke();
      }
      polygon.map(toPixel).forEach(([x, y]) => context.fillRect(x - 3, y - 3, 6, 6));
    }
    if (cursor) {
      const [x, y] = toPixel(this.centre(cursor));
      const half = Math.max(side / 2, 6);
      for (const [colour, lineWidth] of [['#1b1f24', 4], ['#fff', 2]]) {
        Object.assign(context, {strokeStyle: colour, lineWidth});
        context.strokeRect(x - half, y - half, 2 * half, 2 * half);
      }
    }
  }
}
